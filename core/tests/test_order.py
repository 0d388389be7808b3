"""Which examples form which batch: pure arithmetic on rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstrain.data.order import BatchRows, EpochOrder, batch_count, pad_rows, padding_weights
from crosstrain.random import permutation


@pytest.mark.parametrize(
    ("examples", "batch_size", "drop_last", "expected"),
    [(10, 5, False, 2), (11, 5, False, 3), (11, 5, True, 2), (4, 5, False, 1), (4, 5, True, 0), (0, 5, False, 0)],
)
def test_batch_count(examples, batch_size, drop_last, expected):
    assert batch_count(examples, batch_size, drop_last) == expected
    batches = list(EpochOrder(examples, batch_size, None, order=None, drop_last=drop_last).batches())
    assert len(batches) == expected


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 8), st.booleans())
def test_an_epoch_holds_every_example_once_and_padding_only_beside_it(examples, batch_size, multiple, shuffle):
    padded = -(-batch_size // multiple) * multiple
    order = (1, 2) if shuffle else None
    batches = list(EpochOrder(examples, batch_size, padded, order=order, drop_last=False).batches())
    real = np.concatenate([batch.rows[: batch.real] for batch in batches])
    np.testing.assert_array_equal(real, permutation(1, 2, examples) if shuffle else np.arange(examples))
    assert {len(batch.rows) for batch in batches} == {padded}
    assert all(0 <= row < examples for batch in batches for row in batch.rows)


def test_batches_without_padding_end_with_a_short_one():
    batches = list(EpochOrder(7, 3, None, order=None, drop_last=False).batches())
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.real for batch in batches] == [3, 3, 1]


def test_padding_comes_from_the_beginning_of_the_epoch():
    order = permutation(0, 0, 7)
    *_, last = EpochOrder(7, 4, 4, order=(0, 0), drop_last=False).batches()
    assert last.rows.tolist() == [*order[4:], order[0]]
    assert last.real == 3


def test_padding_repeats_a_pool_that_is_too_short():
    batch = pad_rows(np.array([5]), 6, np.array([5, 7]))
    assert batch.rows.tolist() == [5, 5, 7, 5, 7, 5]
    assert batch.real == 1


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_local_parts_in_the_order_of_processes_are_the_batch(processes):
    batch = BatchRows(np.array([3, 1, 4, 1, 5, 9, 2, 6]), real=5)
    parts = [batch.local(index, processes) for index in range(processes)]
    assert {len(rows) for rows, _ in parts} == {8 // processes}
    assert np.concatenate([rows for rows, _ in parts]).tolist() == batch.rows.tolist()
    assert np.concatenate([weights for _, weights in parts]).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_padding_weights_are_float64_ones_then_zeros():
    weights = padding_weights(4, 3)
    assert weights.dtype == np.float64
    assert weights.tolist() == [1, 1, 1, 0]


def test_several_parts_come_one_after_the_other():
    batch = BatchRows(np.array([3, 1, 4, 1, 5, 9, 2, 6]), real=5)
    rows, weights = batch.local((0, 2), 4)
    assert rows.tolist() == [3, 1, 5, 9]
    assert weights.tolist() == [1, 1, 1, 0]
