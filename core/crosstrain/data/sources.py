"""Where examples come from. A `Source` has a length and gathers a batch of rows at once.

Array sources gather batch-wise (one fancy index per field), which is an order of magnitude faster than a Python
loop over examples; everything else is adapted to the same two methods. What has no length is no `Source`: the
loader cuts iterables into batches itself.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from crosstrain.errors import DataError, require_count

Arrays = dict[str, np.ndarray]


class Source(abc.ABC):
    """Examples by index."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    @abc.abstractmethod
    def gather(self, rows: np.ndarray) -> Arrays:
        """The examples `rows` (int64, shape (B,)) as arrays of shape (B, ...), in that order."""

    def fields(self) -> Arrays | None:
        """All examples as arrays when that costs nothing (views), so that they can be checked once; else None."""
        return None


class ArraySource(Source):
    """A dict of arrays or memory maps whose first dimension counts examples."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        if not arrays:
            raise DataError("source must have at least one field, got an empty dict.")
        self._arrays = {name: as_array(values) for name, values in arrays.items()}
        for name, values in self._arrays.items():
            if values.dtype == object or values.ndim == 0:
                raise DataError(
                    f"field {name!r} must be an array with one row per example, "
                    f"got shape {values.shape} of {values.dtype}."
                )
        lengths = {name: len(values) for name, values in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"all fields must have the same number of examples, got {lengths}.")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        return {name: _rows_of(values, rows) for name, values in self._arrays.items()}

    def fields(self) -> Arrays:
        """The arrays themselves."""
        return self._arrays


class MapSource(Source):
    """Any object with `__len__` and `__getitem__(int)` that gives an example."""

    def __init__(self, examples: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self._examples = examples
        self._collate = collate or stack_examples

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        return as_fields(self._collate([example_named(int(row), self._examples.__getitem__) for row in rows]))


class BatchedSource(Source):
    """An HF dataset: `dataset[[3, 1, 2]]` gives a dict of columns in that order, those that its format says.

    One with a transform of its own (`with_transform`) keeps it, and gives what that makes of the rows of a batch.
    """

    def __init__(self, dataset: Any) -> None:
        kind, chosen = dataset.format["type"], dataset.format["columns"]
        self._transforms = kind == "custom"
        if kind not in ("numpy", "custom"):
            dataset = dataset.with_format("numpy", None if dataset.format["output_all_columns"] else chosen)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        columns = self._dataset[rows.tolist()]
        if not self._transforms:
            return as_fields(columns)
        given = {name: len(values) for name, values in columns.items()} if isinstance(columns, Mapping) else columns
        if not isinstance(given, dict) or {*given.values()} != {len(rows)}:
            raise DataError(
                f"the transform of a dataset must give a dict of columns, a value for each of the {len(rows)} rows, "
                f"got {given if isinstance(given, dict) else type(given).__name__}. Give one for every row it gets."
            )
        return stack_examples([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def as_int32(tokens: np.ndarray) -> np.ndarray:
    """Token ids as int32.

    Raises:
        DataError: one that does not fit.
    """
    if tokens.dtype.itemsize >= 4 and tokens.dtype != np.int32 and tokens.size:
        low, high = int(tokens.min()), int(tokens.max())
        if low < np.iinfo(np.int32).min or high > np.iinfo(np.int32).max:
            raise DataError(
                f"token ids must fit into 32 bits with a sign, got ids from {low} to {high}. Is the dtype another?"
            )
    return np.asarray(tokens, dtype=np.int32)


class TokenSource(Source):
    """Consecutive windows of a token stream, for language models; see `token_windows`."""

    def __init__(self, tokens: Any, length: int) -> None:
        tokens = as_array(tokens)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise DataError(f"tokens must be a vector of integers, got shape {tokens.shape} of {tokens.dtype}.")
        require_count("length", length, DataError)
        self._tokens, self._size = tokens, length

    def __len__(self) -> int:
        return max(0, (len(self._tokens) - 1) // self._size)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        positions = rows[:, None] * self._size + np.arange(self._size + 1)
        window = as_int32(self._tokens[positions])
        return {"tokens": window[:, :-1], "label": window[:, 1:]}


def token_windows(tokens: np.ndarray, length: int) -> Source:
    """Windows of `length` tokens, each with the tokens that follow them as labels.

    Args:
        tokens: integers, shape (N,); may be a memory map.
        length: tokens per example, T. Examples do not overlap; a rest shorter than T + 1 is left out.

    Returns:
        A source of `{"tokens": (B, T), "label": (B, T)}`, int32.

    Raises:
        DataError: not a vector of integers, or no positive length.
    """
    return TokenSource(tokens, length)


def as_source(source: Any) -> Source | None:
    """The `Source` that adapts an object, or None when it can only be iterated.

    Raises:
        DataError: the object is neither indexable nor iterable.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        return ArraySource(source)
    if isinstance(source, np.ndarray):
        raise DataError(
            "source must name its fields, got a bare array. Use a dict: {'image': images, 'label': labels}."
        )
    if isinstance(source, tuple) and source and all(hasattr(part, "shape") for part in source):
        raise DataError(
            "source must name its fields, got a tuple of arrays. Use a dict: {'image': images, 'label': labels}."
        )
    if hasattr(source, "columns") and hasattr(source, "to_numpy"):
        raise DataError(
            f"source must have an example at each index, got a {type(source).__name__}, which has columns. Use a dict "
            "of arrays: {'x': frame[['height', 'weight']].to_numpy(), 'label': frame['label'].to_numpy()}."
        )
    if hasattr(source, "with_format") and hasattr(source, "__len__"):
        return BatchedSource(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return MapSource(source)
    if isinstance(source, Iterable):
        return None
    raise DataError(
        f"source must be a dict of arrays, indexable or iterable, got {type(source).__name__}. "
        "Give it __len__ and __getitem__, or __iter__."
    )


def stack_examples(examples: Sequence[Any]) -> Arrays:
    """Stacks examples (dicts, or pairs as `x` and `y`) into arrays of shape (B, ...).

    Raises:
        DataError: examples whose fields or shapes differ.
    """
    named = [as_fields(example) for example in examples]
    first = named[0]
    for example in named[1:]:
        if example.keys() != first.keys():
            raise DataError(f"all examples must have the fields {sorted(first)}, got one with {sorted(example)}.")
    try:
        return {name: np.stack([example[name] for example in named]) for name in first}
    except ValueError as error:
        shapes = {name: sorted({example[name].shape for example in named}) for name in first}
        raise DataError(
            f"all examples must have the same shapes, got {shapes}. "
            "Pad or crop them, or give a DataLoader with a collate_fn."
        ) from error


def example_named(row: int, read: Callable[[int], Any]) -> Any:
    """`read(row)`; an exception keeps its type, and a note says which example it was."""
    try:
        return read(row)
    except Exception as error:
        error.add_note(f"This was example {row} of the source.")
        raise


def _rows_of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of these rows."""
    # `take` copies small rows in a third of the time, and arrays that it cannot go through in order altogether.
    whole = values.flags.c_contiguous and values.flags.aligned
    return np.asarray(values.take(rows, axis=0) if whole else values[rows])


def as_array(values: Any) -> np.ndarray:
    """An array of the host: bfloat16, which NumPy lacks, as float32, and a tensor of torch without its graph."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    # Names are slow to ask for, and every example comes here.
    return array.astype(np.float32) if array.dtype.kind == "V" and array.dtype.name == "bfloat16" else array


def as_fields(example: Any) -> Arrays:
    """A dict of NumPy arrays from a dict, or from a pair, whose parts are called `x` and `y`.

    Raises:
        DataError: neither.
    """
    if isinstance(example, Mapping):
        return {str(name): as_array(values) for name, values in example.items()}
    if isinstance(example, tuple | list) and len(example) == 2:
        return {"x": as_array(example[0]), "y": as_array(example[1])}
    raise DataError(
        f"an example must be a dict of arrays or a pair (x, y), got {type(example).__name__}. "
        "Name the fields: {'image': ..., 'label': ...}."
    )


def kept(fields: Mapping[str, Any]) -> Arrays:
    """A copy, which stays as it is whatever its maker does with the memory."""
    return {name: np.array(values) for name, values in fields.items()}
