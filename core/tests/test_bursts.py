"""Small batches of arrays are made several at once: they are what they would be one by one."""

from itertools import islice

import numpy as np
import pytest

from crosstrain.data.loader import WEIGHT, Loader, LoaderSpec, Placement
from crosstrain.data.sources import ArraySource
from crosstrain.errors import DataError


class Counted(ArraySource):
    """How many examples each call gathers."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.calls = []

    def gather(self, rows):
        self.calls.append(len(rows))
        return super().gather(rows)


def source(size=70, width=3):
    return Counted({"x": np.arange(size * width, dtype=np.float64).reshape(size, width), "y": np.arange(size)})


def loader(examples, *, apart=None, part=0, parts=1, batch_size=4, **options):
    placement = Placement(part=part, parts=parts, data_size=parts, float_dtype="float32", put=dict, put_apart=apart)
    return Loader(examples, LoaderSpec(batch_size=batch_size, shuffle=True, **options), placement)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype


@pytest.mark.parametrize(
    ("part", "parts", "options"),
    [(0, 2, {}), (1, 2, {}), (1, 2, {"drop_last": True}), (0, 1, {"even_batches": False})],
    ids=["padded", "padded, second part", "whole ones only", "a short last one"],
)
def test_batches_are_those_that_threads_make_one_by_one(part, parts, options):
    examples, others = source(), source()
    several = loader(examples, part=part, parts=parts, **options)
    singly = loader(others, part=part, parts=parts, workers=1, **options)
    for _ in range(2):
        assert_same(list(several), list(singly))
    assert len(examples.calls) < len(others.calls) / 3


def test_one_gather_for_sixteen_batches_and_large_ones_alone():
    examples = source(size=640)
    list(loader(examples))
    assert examples.calls == [64] * 10
    large = source(size=64, width=2**17)
    list(loader(large, batch_size=2))
    assert large.calls == [2] * 32


def test_an_engine_may_take_them_apart_on_the_devices():
    shapes = []

    def apart(batches):
        shapes.append({name: values.shape for name, values in batches.items()})
        return [{name: values[index] for name, values in batches.items()} for index in range(len(batches["y"]))]

    examples = source(size=66)
    assert_same(list(loader(examples, apart=apart)), list(loader(examples)))
    assert shapes == [
        {"x": (16, 4, 3), "y": (16, 4), WEIGHT: (16, 4)},
        {"x": (1, 4, 3), "y": (1, 4), WEIGHT: (1, 4)},
    ]


def test_the_position_after_each_is_its_own():
    first = loader(source())
    taken = list(islice(iter(first), 5))
    second = loader(source())
    second.load_state_dict(first.state_dict())
    assert_same([*taken, *second], list(loader(source())))


def test_integers_that_do_not_fit_are_refused():
    examples = source()
    examples.fields()["y"][69] = 2**40
    with pytest.raises(DataError, match="field 'y' must fit into 32 bits"):
        list(loader(examples))


def test_weights_of_the_source_are_checked_batch_by_batch():
    weights = np.ones(70)
    examples = Counted(source().fields() | {WEIGHT: weights})
    assert [batch[WEIGHT].sum() for batch in loader(examples, drop_last=True)] == [4.0] * 17
    assert set(examples.calls) == {4}
    weights[:] = 0
    with pytest.raises(DataError, match="0 / 0"):
        list(loader(examples))
