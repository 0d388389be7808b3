"""`Metrics` are fetched once, on the first read; `MetricSum` adds sums and weights and divides once."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct


class Device:
    """Stands where a device would: counts how often values are copied from it."""

    def __init__(self, table):
        self.table, self.fetches = table, 0

    def fetch(self, values):
        self.fetches += 1
        assert values is self.table
        return np.asarray(values)


def metrics(device, known=None, names=("loss", "accuracy")):
    return ct.Metrics(names, device.table, device.fetch, known)


@pytest.fixture
def device():
    return Device(np.array([[6.0, 4.0], [3.0, 4.0]], np.float32))


def test_nothing_is_fetched_before_a_value_is_read(device):
    found = metrics(device, {"learning_rate": 0.1})
    assert list(found) == ["loss", "accuracy", "learning_rate"]
    assert len(found) == 3
    assert "loss" in found
    assert found.names == ("loss", "accuracy")
    assert "on the device" in repr(found)
    assert found["learning_rate"] == 0.1
    assert device.fetches == 0


def test_all_values_are_fetched_once(device):
    found = metrics(device)
    assert dict(found) == {"loss": 1.5, "accuracy": 0.75}
    assert found["loss"] == 1.5
    assert found.sums().dtype == np.float64
    assert repr(found) == "Metrics(loss=1.5, accuracy=0.75)"
    assert device.fetches == 1


def test_an_unknown_name_lists_what_there_is(device):
    with pytest.raises(KeyError, match="no metric 'acc' in this step; it has loss, accuracy"):
        metrics(device)["acc"]


def test_a_metric_of_no_weight_is_nan():
    assert math.isnan(metrics(Device(np.zeros((2, 2))))["loss"])


def test_a_sum_fetches_nothing_before_its_result(device):
    total = ct.MetricSum()
    for _ in range(3):
        total.add(metrics(device))
    assert device.fetches == 0
    assert total.result() == {"loss": 1.5, "accuracy": 0.75}
    assert device.fetches == 3


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(0, 50)), min_size=1))
def test_a_sum_is_the_weighted_mean_and_no_mean_of_means(pairs):
    total = ct.MetricSum()
    for pair in pairs:
        total.add(metrics(Device(np.array([pair], np.float32)), names=("loss",)))
    weight = sum(weight for _, weight in pairs)
    result = total.result()["loss"]
    if weight == 0:
        assert math.isnan(result)
    else:
        assert result == float(Fraction(sum(value for value, _ in pairs), weight))


def test_a_sum_counts_examples_that_float32_could_not():
    total = ct.MetricSum()
    for weight in (2.0**24, 1.0, 1.0):
        total.add(metrics(Device(np.array([[weight, weight]], np.float32)), names=("count",)))
    total.add(metrics(Device(np.array([[0.0, 2.0**24 + 2]], np.float32)), names=("count",)))
    assert total.result() == {"count": 0.5}


def test_a_sum_reports_device_metrics_only(device):
    total = ct.MetricSum()
    total.add(metrics(device, {"learning_rate": 0.1}))
    assert set(total.result()) == {"loss", "accuracy"}


def test_a_sum_goes_by_names_where_batches_have_other_metrics():
    total = ct.MetricSum()
    total.add(metrics(Device(np.array([[8.0, 4], [3, 4]])), names=("loss", "accuracy")))
    total.add(metrics(Device(np.array([[5.0, 1], [7, 2]])), names=("loss", "mae")))
    assert total.result() == {"loss": 2.6, "accuracy": 0.75, "mae": 3.5}


def test_a_sum_of_nothing_is_empty():
    assert ct.MetricSum().result() == {}
