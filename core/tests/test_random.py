"""Counter-based randomness: published known answers, pinned values, moments, and what it may not depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstrain import random
from crosstrain.random import WORD_MASK, StepRandom, example_uniform, keep_threshold, threefry2x32

FF = 0xFFFFFFFF
# Random123's kat_vectors, lines "threefry2x32 20": counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((FF, FF), (FF, FF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def wrap(word):
    return word & WORD_MASK


def words(*values):
    return tuple(np.array([value], np.uint32) for value in values)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_threefry_gives_the_published_answers_on_python_integers(counter, key, expected):
    assert threefry2x32(key, *counter, wrap=wrap) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_threefry_gives_the_published_answers_on_unsigned_arrays(counter, key, expected):
    result = threefry2x32(words(*key), *words(*counter))
    assert tuple(int(word[0]) for word in result) == expected


def test_threefry_is_the_same_on_unsigned_and_on_wider_wrapped_words():
    raw = np.random.default_rng(0).integers(0, 2**32, (4, 1000))
    key, counter = raw[:2], raw[2:]
    wide = threefry2x32(tuple(key), *counter, wrap=wrap)
    narrow = threefry2x32(tuple(key.astype(np.uint32)), *counter.astype(np.uint32))
    assert narrow[0].dtype == np.uint32
    np.testing.assert_array_equal(wide, narrow)
    single = [threefry2x32((int(k0), int(k1)), int(c0), int(c1), wrap=wrap)[0] for k0, k1, c0, c1 in raw.T[:50]]
    np.testing.assert_array_equal(single, narrow[0][:50])


def test_seed_key_depends_on_every_bit_of_the_seed_and_on_the_stream():
    seeds = (0, 1, 2**31, 2**32, 2**63, -1)
    assert len({random.seed_key(seed, stream) for seed in seeds for stream in ("dropout", "other")}) == 2 * len(seeds)


# These decide every run that anybody has ever made: a change here makes all of them impossible to repeat.
@pytest.mark.parametrize(
    ("computed", "pinned"),
    [
        (lambda: random.permutation(0, 0, 10).tolist(), [6, 8, 2, 9, 7, 0, 4, 5, 1, 3]),
        (lambda: random.permutation(0, 1, 10).tolist(), [6, 8, 0, 9, 1, 2, 4, 3, 7, 5]),
        (lambda: random.permutation(12345, 7, 10).tolist(), [1, 5, 6, 7, 3, 4, 2, 0, 9, 8]),
        (lambda: random.uniform(0, "x", (2,)).tolist(), [0.01994145379321044, 0.5540288573192662]),
        (lambda: random.stable_hash("layers.0.weight"), 0x3E163D53ECC2C30C),
        (lambda: random.stable_hash("dropout", bits=32), 0x974319F7),
        (lambda: random.seed_key(0, "dropout"), (2188752292, 843045595)),
        (lambda: random.seed_key(2**40 + 5, "dropout"), (3749451978, 3157352776)),
    ],
)
def test_the_numbers_that_decide_a_run_never_change(computed, pinned):
    assert computed() == pinned


def test_normal_numbers_never_change_by_more_than_rounding():
    expected = [-0.420122439659252, -0.9864579636547905, -0.4825338125078296, 1.5375235981297695]
    np.testing.assert_allclose(random.normal(0, "init/layers.0.weight", (4,)), expected, rtol=1e-14)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_permutation_contains_every_example_once(size):
    order = random.permutation(3, 5, size)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("size", [0, 1, 7, 1000, 100_000])
@pytest.mark.parametrize("highest", [3, 2**63])
def test_equal_keys_stay_in_their_order(size, highest):
    keys = np.random.default_rng(size).integers(0, highest, size, np.uint64)
    np.testing.assert_array_equal(random._ascending(keys), np.argsort(keys, kind="stable"))


def test_permutation_differs_by_epoch_and_by_seed():
    orders = {tuple(random.permutation(seed, epoch, 50)) for seed in range(3) for epoch in range(4)}
    assert len(orders) == 12


def test_permutation_puts_every_example_everywhere_equally_often():
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), random.permutation(0, epoch, 5)] += 1
    chi_square = np.sum((counts - 400) ** 2 / 400)
    assert chi_square < 39  # 16 degrees of freedom; beyond 39 once in 1000


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 3), (2, 3, 5)])
@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_shapes_and_type(draw, shape):
    values = draw(1, "name", shape)
    assert np.shape(values) == shape
    assert values.dtype == np.float64


@pytest.mark.parametrize(
    ("draw", "moments"),
    [(random.uniform, (1 / 2, 1 / 3, 1 / 4, 1 / 5)), (random.normal, (0, 1, 0, 3))],
)
def test_moments(draw, moments):
    values = draw(0, "moments", (1_000_000,))
    measured = [np.mean(values**power) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(measured, moments, atol=0.02)


def test_uniform_stays_below_one():
    values = random.uniform(0, "range", (100_000,))
    assert values.min() >= 0
    assert values.max() < 1


@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_numbers_are_a_function_of_seed_and_name(draw):
    np.testing.assert_array_equal(draw(1, "a", (10,)), draw(1, "a", (10,)))
    assert len({draw(seed, name, (2,)).tobytes() for seed in (0, 1, -1, 2**63) for name in ("a", "b")}) == 8


def dropout_bits(rows, columns=7, key=(11, 22), layer=33):
    step = StepRandom(words(*key), np.asarray(rows, np.uint32))
    return step.bits(np.array([layer], np.uint32), np.arange(columns, dtype=np.uint32))


@pytest.mark.parametrize(
    "parts", [[range(12)], [range(6), range(6, 12)], [range(0, 12, 3), [1, 4, 7, 10, 2, 5, 8, 11]]]
)
def test_step_bits_do_not_depend_on_how_rows_are_split(parts):
    whole = dropout_bits(range(12))
    assert whole.shape == (12, 7)
    for rows in parts:
        np.testing.assert_array_equal(dropout_bits(rows), whole[list(rows)])


def test_step_bits_do_not_depend_on_how_many_features_follow():
    np.testing.assert_array_equal(dropout_bits(range(4), columns=3), dropout_bits(range(4), columns=7)[:, :3])


def test_step_bits_differ_by_key_layer_row_and_column():
    bits = [dropout_bits(range(50)), dropout_bits(range(50), key=(11, 23)), dropout_bits(range(50), layer=34)]
    assert len(np.unique(bits)) == np.size(bits)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_keep_threshold_keeps_one_minus_the_rate(rate):
    kept = dropout_bits(range(500), columns=400) < keep_threshold(rate)
    assert kept.mean() == pytest.approx(1 - rate, abs=0.005)


def test_keep_threshold_fits_into_32_bits():
    assert keep_threshold(0.0) == WORD_MASK
    assert keep_threshold(0.5) == 2**31


# Numbers that belong to an example.


def test_numbers_of_examples_are_uniform_and_independent():
    draws = example_uniform(0, "test", 1, np.arange(50_000), 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.array([np.histogram(column, 20, (0, 1))[0] for column in draws.T])
    assert ((counts - 2500) ** 2 / 2500).sum(1).max() < 43.8, "chi-squared, 19 degrees of freedom, p = 0.001"
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.02
    assert np.abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 0.02


def test_numbers_of_examples_never_change():
    draws = example_uniform(7, "flip", 3, np.array([0, 1, 2**40]), 2)
    pinned = [
        [0.7707333613788179, 0.20923195927255633],
        [0.6177451906088528, 0.192084711711062],
        [0.06855293479913938, 0.8572551946687429],
    ]
    np.testing.assert_array_equal(draws, pinned)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40), st.lists(st.integers(0, 2**62), min_size=1, max_size=9))
def test_any_seed_epoch_and_example_give_numbers(seed, epoch, examples):
    draws = example_uniform(seed, "x", epoch, np.array(examples), 2)
    assert draws.shape == (len(examples), 2)
    np.testing.assert_array_equal(draws[-1:], example_uniform(seed, "x", epoch, np.array(examples[-1:]), 2))
