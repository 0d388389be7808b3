"""Sources: arrays, memory maps, indexable objects, token windows; what they give and what they refuse."""

import numpy as np
import pytest
import torch

import crosstrain as ct
from crosstrain.data.sources import as_source, stack_examples, token_windows

ROWS = np.array([3, 0, 2])


class Squares:
    """A map-style data set."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        assert type(index) is int, "examples are asked for by plain integers"
        return {"x": np.full(2, index), "square": index**2}


class Pairs(Squares):
    def __getitem__(self, index):
        return np.full(2, index), index**2


SQUARES = {"x": np.arange(5)[:, None].repeat(2, 1), "square": np.arange(5) ** 2}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (SQUARES, ("x", "square")),
        ({name: values.tolist() for name, values in SQUARES.items()}, ("x", "square")),
        (Squares(), ("x", "square")),
        ([Squares()[index] for index in range(5)], ("x", "square")),
        (Pairs(), ("x", "y")),
    ],
    ids=["arrays", "lists", "map-style", "list-of-dicts", "pairs"],
)
def test_a_source_gathers_rows_in_the_order_they_are_asked_for(source, names):
    adapted = as_source(source)
    assert len(adapted) == 5
    gathered = adapted.gather(ROWS)
    assert tuple(gathered) == names
    for found, expected in zip(gathered.values(), SQUARES.values(), strict=True):
        np.testing.assert_array_equal(found, expected[ROWS])


def test_a_memory_map_is_read_by_the_row(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, SQUARES["x"])
    mapped = np.load(path, mmap_mode="r")
    source = as_source({"x": mapped})
    assert source.fields()["x"] is mapped
    gathered = source.gather(ROWS)["x"]
    assert not isinstance(gathered, np.memmap)
    np.testing.assert_array_equal(gathered, SQUARES["x"][ROWS])


def test_only_arrays_show_all_their_examples():
    assert as_source(Squares()).fields() is None


def test_a_source_stays_itself():
    source = as_source(SQUARES)
    assert as_source(source) is source


def test_what_can_only_be_iterated_is_no_source():
    assert as_source(iter([1])) is None
    assert as_source({1, 2}) is None


class Frame:
    """As much of a table of pandas as tells that it is one."""

    columns = ("x", "y")

    def __len__(self):
        return 3

    def __getitem__(self, name):
        raise KeyError(name)

    def to_numpy(self):
        return np.zeros((3, 2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "at least one field"),
        ({"x": 3.0}, r"'x' must be an array with one row per example, got shape \(\)"),
        ({"x": np.array([{}, []], object)}, "'x' must be an array .* of object"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, r"\{'x': 3, 'y': 2\}"),
        (np.zeros(3), "got a bare array. Use a dict"),
        ((np.zeros(3), np.zeros(3)), "got a tuple of arrays. Use a dict"),
        (Frame(), r"got a Frame, which has columns. Use a dict of arrays: \{'x': frame\[\["),
        (7, "got int. Give it __len__ and __getitem__, or __iter__"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_source_is_refused_with_a_fix(source, message):
    with pytest.raises(ct.DataError, match=message):
        as_source(source)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"x": 1}, {"y": 1}], r"fields \['x'\], got one with \['y'\]"),
        ([{"x": np.zeros(2)}, {"x": np.zeros(3)}], r"same shapes, got \{'x': \[\(2,\), \(3,\)\]\}"),
        ([1, 2], "a dict of arrays or a pair .* got int"),
        ([(1, 2, 3)], "got tuple"),
    ],
)
def test_examples_that_do_not_stack_are_refused(examples, message):
    with pytest.raises(ct.DataError, match=message):
        stack_examples(examples)


@pytest.mark.parametrize(("tokens", "windows"), [(13, 3), (12, 2), (5, 1), (4, 0), (0, 0)])
def test_token_windows_have_the_next_tokens_as_labels(tokens, windows):
    source = token_windows(np.arange(tokens, dtype=np.uint8), 4)
    assert len(source) == windows
    batch = source.gather(np.arange(windows))
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(batch["tokens"], np.arange(windows * 4).reshape(windows, 4))
    np.testing.assert_array_equal(batch["label"], batch["tokens"] + 1)


@pytest.mark.parametrize(
    ("tokens", "length", "message"),
    [
        (np.zeros((2, 3), int), 4, r"got shape \(2, 3\) of int64"),
        (np.zeros(9), 4, "of float64"),
        (np.zeros(9, int), 0, "length=0"),
    ],
)
def test_what_is_no_token_stream_is_refused(tokens, length, message):
    with pytest.raises(ct.DataError, match=message):
        token_windows(tokens, length)


@pytest.mark.parametrize("tokens", [[*range(9)], torch.arange(9)], ids=["list", "tensor"])
def test_tokens_may_be_a_list_or_a_tensor(tokens):
    assert token_windows(tokens, 4).gather(np.array([1]))["label"].tolist() == [[5, 6, 7, 8]]
