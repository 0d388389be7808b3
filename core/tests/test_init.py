"""Initialisers: fans, moments, bounds, distributions, orthogonality, and that they follow (seed, name) only."""

import math

import numpy as np
import pytest

import crosstrain as ct
from crosstrain import init, random

SHAPE = (120, 50, 3, 3)
FAN_IN, FAN_OUT = 450, 1080

# Initialiser -> standard deviation, and bound, over SHAPE.
FANS = {
    "kaiming_normal": (init.kaiming_normal(), math.sqrt(2 / FAN_IN), math.inf),
    "kaiming_normal fan_out": (init.kaiming_normal(mode="fan_out"), math.sqrt(2 / FAN_OUT), math.inf),
    "kaiming_normal gain": (init.kaiming_normal(gain=3.0), 3 / math.sqrt(FAN_IN), math.inf),
    "kaiming_uniform": (init.kaiming_uniform(), math.sqrt(2 / FAN_IN), math.sqrt(6 / FAN_IN)),
    "xavier_normal": (init.xavier_normal(gain=2.0), 2 * math.sqrt(2 / (FAN_IN + FAN_OUT)), math.inf),
    "xavier_uniform": (
        init.xavier_uniform(),
        math.sqrt(2 / (FAN_IN + FAN_OUT)),
        math.sqrt(6 / (FAN_IN + FAN_OUT)),
    ),
    "lecun_normal": (init.lecun_normal(), 1 / math.sqrt(FAN_IN), math.inf),
    "lecun_normal truncated": (
        init.lecun_normal(truncated=True),
        1 / math.sqrt(FAN_IN),
        2 / math.sqrt(FAN_IN) / 0.87962566103423978,
    ),
    "lecun_uniform": (init.lecun_uniform(), 1 / math.sqrt(FAN_IN), math.sqrt(3 / FAN_IN)),
    "fan_in_uniform": (init.fan_in_uniform(FAN_IN), 1 / math.sqrt(3 * FAN_IN), 1 / math.sqrt(FAN_IN)),
    "normal": (init.normal(0.3), 0.3, math.inf),
    "truncated_normal": (init.truncated_normal(0.3), 0.3 * 0.87962566103423978, 0.6),
    "uniform": (init.uniform(0.3), 0.3 / math.sqrt(3), 0.3),
}


@pytest.mark.parametrize("name", FANS)
def test_mean_deviation_and_bound(name):
    start, std, bound = FANS[name]
    values = start(0, "w", SHAPE)
    count = values.size
    assert values.dtype == np.float64
    assert values.shape == SHAPE
    # Five standard errors; that of a standard deviation is at most std / sqrt(2 n) for these distributions.
    assert abs(values.mean()) < 5 * std / math.sqrt(count)
    assert abs(values.std() - std) < 5 * std / math.sqrt(2 * count)
    assert np.abs(values).max() <= bound
    if bound < math.inf:
        assert np.abs(values).max() > 0.999 * bound


def cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (init.normal(2.0), lambda x: cdf(x / 2)),
        (init.truncated_normal(2.0), lambda x: (cdf(x / 2) - cdf(-2.0)) / (cdf(2.0) - cdf(-2.0))),
        (init.truncated_normal(1.0, cut=0.5), lambda x: (cdf(x) - cdf(-0.5)) / (cdf(0.5) - cdf(-0.5))),
        (init.uniform(3.0), lambda x: (x + 3) / 6),
    ],
    ids=["normal", "truncated", "truncated close", "uniform"],
)
def test_the_distribution_is_the_one_named(start, expected):
    """Kolmogorov's distance; 1.95 / sqrt(n) is exceeded once in a thousand."""
    values = np.sort(start(0, "w", (20_000,)))
    ranks = np.arange(len(values)) / len(values)
    assert np.abs(expected(values) - ranks).max() < 1.95 / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((5, 3), (3, 5)), ((5, 3, 2), (6, 10)), ((5, 3, 2, 4), (24, 40))],
    ids=["linear", "conv1d", "conv2d"],
)
def test_fans_are_those_of_the_canonical_layout(shape, fans):
    """A uniform's values are its bound times numbers that do not depend on it."""
    unit = init.uniform(1.0)(0, "w", shape)
    for mode, fan in zip(("fan_in", "fan_out", "fan_avg"), (*fans, sum(fans) / 2), strict=True):
        values = init.variance_scaling(1.0, mode, "uniform")(0, "w", shape)
        np.testing.assert_allclose(values, unit * math.sqrt(3 / fan), rtol=1e-15)


@pytest.mark.parametrize("shape", [(7, 7), (4, 9), (9, 4), (6, 2, 3, 3), (30, 2, 3, 3)], ids=str)
def test_orthogonal_rows_or_columns(shape):
    matrix = init.orthogonal(gain=1.5)(3, "w", shape).reshape(shape[0], -1)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, 2.25 * np.eye(len(gram)), atol=1e-14)


def test_the_signs_of_an_orthogonal_matrix_make_r_positive():
    q = init.orthogonal()(0, "w", (6, 4))
    r = q.T @ random.normal(0, "init/w", (6, 4))
    np.testing.assert_allclose(np.tril(r, -1), 0.0, atol=1e-14)
    assert (np.diagonal(r) > 0).all()


def test_rejected_numbers_come_from_the_next_streams_at_the_same_place():
    first, second = random.normal(0, "w", (999,)), random.normal(0, "w#1", (999,))
    values = random.truncated_normal(0, "w", (999,), 2.0)
    inside = np.abs(first) <= 2
    assert (values[inside] == first[inside]).all()
    redrawn = ~inside & (np.abs(second) <= 2)
    assert redrawn.sum() > 20
    assert (values[redrawn] == second[redrawn]).all()


STARTS = [start for start, _, _ in FANS.values()] + [init.orthogonal()]


@pytest.mark.parametrize("start", STARTS, ids=[*FANS, "orthogonal"])
def test_values_follow_seed_and_name_only(start):
    values = start(5, "layers.0.weight", (8, 6))
    assert (values == start(5, "layers.0.weight", (8, 6))).all()
    assert not (values == start(6, "layers.0.weight", (8, 6))).any()
    assert not (values == start(5, "layers.1.weight", (8, 6))).any()


def test_equal_numbers_make_equal_initialisers():
    assert init.kaiming_normal() == init.kaiming_normal() != init.kaiming_uniform()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: init.kaiming_normal()(0, "layers.0.bias", (4,)), r"layers.0.bias must have .* got shape \(4,\)"),
        (lambda: init.orthogonal()(0, "layers.0.bias", (4,)), r"layers.0.bias must have .* got shape \(4,\)"),
        (lambda: init.truncated_normal(1.0, cut=0.1), "cut=0.1"),
        (lambda: init.truncated_normal(1.0, cut=math.nan), "cut=nan"),
        (lambda: init.variance_scaling(0.0, "fan_in", "normal"), "scale=0.0"),
        (lambda: init.variance_scaling(1.0, "fan", "normal"), "mode='fan'"),
        (lambda: init.variance_scaling(1.0, "fan_in", "cauchy"), "distribution='cauchy'"),
    ],
)
def test_a_start_that_cannot_be_is_refused_by_name_and_value(make, named):
    with pytest.raises(ct.ConfigError, match=named):
        make()
