"""The NumPy side of the collectives: reductions over processes, padding, and arrays in words."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crosstrain.errors import DataError


def fold(reduction: str, rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, shape (process_count, m), reduced to shape (m,).

    Rows are added one after the other, floats in float64 (complex128), so that the result depends on the values alone.
    So are integers for their mean, since a sum of 64 bits may wrap round where the mean fits.
    """
    if reduction in ("max", "min"):
        return functools.reduce(np.maximum if reduction == "max" else np.minimum, rows)
    whole = np.float64 if reduction == "mean" else np.uint64 if rows.dtype.kind == "u" else np.int64
    wide = np.result_type(rows.dtype, {"f": np.float64, "c": np.complex128}.get(rows.dtype.kind, whole))
    total: Any = functools.reduce(np.add, rows.astype(wide))
    if reduction == "mean":
        total = total / len(rows)
    return total.astype(rows.dtype) if rows.dtype.kind in "fc" else total


def has_dimension(values: np.ndarray, dim: int) -> bool:
    """Whether `dim`, which may count from the end, is one of the array's."""
    return -values.ndim <= dim < values.ndim


def pad(values: np.ndarray, dim: int, size: int, pad_value: float, pad_first: bool) -> np.ndarray:
    """The array with `dim` filled up to `size`; a copy of it when it has no such dimension."""
    if not has_dimension(values, dim) or values.shape[dim] == size:
        return values.copy()
    widths = [(0, 0)] * values.ndim
    missing = size - values.shape[dim]
    widths[dim] = (missing, 0) if pad_first else (0, missing)
    return np.pad(values, widths, constant_values=pad_value)


def require_fits(pad_value: float, leaves: Sequence[tuple[str, np.ndarray]]) -> None:
    """Refuses a filling that an integer or boolean array would change.

    Raises:
        DataError: names the leaf, its type and the value.
    """
    for path, values in leaves:
        if values.dtype.kind not in "fc" and not _fits(pad_value, values.dtype):
            raise DataError(
                f"pad_value must fit into {path}, got pad_value={pad_value} for {values.dtype}. "
                "Use a value that this type can hold."
            )


def _fits(value: float, dtype: np.dtype) -> bool:
    try:
        return bool(np.asarray(value, dtype) == value)
    except (OverflowError, ValueError):
        return False


def words(values: np.ndarray, open_dim: int | None = None) -> str:
    """Shape and type, such as `(3, 4) float32`; `*` for a dimension that may differ between processes."""
    shape: list[Any] = list(values.shape)
    if open_dim is not None and has_dimension(values, open_dim):
        shape[open_dim] = "*"
    comma = "," if len(shape) == 1 else ""
    return f"({', '.join(map(str, shape))}{comma}) {values.dtype}"


def local_positions(count: int, index: int, processes: int, padded: bool) -> np.ndarray:
    """Which of `count` inputs process `index` takes: consecutive ones, the first processes one more where need be.

    `padded` repeats the last position so that all processes take as many as the first one.
    """
    each, more = divmod(count, processes)
    start = index * each + min(index, more)
    stop = start + each + (index < more)
    positions = np.arange(start, stop)
    if padded and count:
        positions = np.append(positions, np.full(each + (more > 0) - len(positions), max(stop - 1, 0)))
    return positions


Join = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""What was received for a leaf, and the leaf's shape on this process, to the result."""


def as_it_was(received: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A combined leaf in its own shape."""
    return received.reshape(shape)


def end_to_end(received: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Leaves of all processes, shape (process_count, size), along their first dimension; a scalar counts as one row."""
    rows = len(received) * (shape[0] if shape else 1)
    return received.reshape(rows, *shape[1:])
