"""Parquet files through pyarrow: numbers become arrays, strings and bytes stay in Arrow until they are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstrain.data.files import PathLike, reading, require_file, require_package
from crosstrain.data.sources import Arrays, Source
from crosstrain.errors import DataError


class ParquetSource(Source):
    """The columns of parquet files; see `parquet`."""

    def __init__(self, arrays: Arrays, columns: dict[str, Any], length: int) -> None:
        self._arrays, self._columns, self._length = arrays, columns, length

    def __len__(self) -> int:
        return self._length

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        batch = {name: values[rows] for name, values in self._arrays.items()}
        for name, column in self._columns.items():
            values = np.empty(len(rows), dtype=object)
            values[:] = column.take(rows).to_pylist()
            batch[name] = values
        return batch

    def fields(self) -> Arrays | None:
        """The arrays, where all columns are numbers."""
        return None if self._columns else self._arrays


def parquet(paths: PathLike | Sequence[PathLike], *, columns: Sequence[str] | None = None) -> ParquetSource:
    """The rows of parquet files of one schema, one file after the other.

    Numbers, and lists of as many numbers in every row, become arrays: (N,) and (N, K), filled one row group after the
    other, so that no second copy of the data is ever held. Strings and bytes stay as Arrow holds them, and reach a
    transform as arrays of `str` or `bytes` objects, for `tokenise` or a decoder of your own.

    Args:
        paths: a file, or several.
        columns: which to read; None for all.

    Raises:
        DataError: pyarrow is not installed; a file that is missing, damaged or of another format; a column that is
            not there, has missing values, is nested, or whose lists differ in length.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise require_package("pyarrow", "parquet", error) from error
    listed = [paths] if isinstance(paths, str) or hasattr(paths, "__fspath__") else [*paths]
    files = [require_file(path, "a parquet file") for path in listed]
    if not files:
        raise DataError("paths must name at least one file, got none.")
    opened = []
    for file in files:
        with reading(file, "a parquet file", "It is truncated or of another format; write it again."):
            opened.append(pq.ParquetFile(file, memory_map=True))
    names = list(columns) if columns is not None else opened[0].schema_arrow.names
    for file, reader in zip(files, opened, strict=True):
        missing = set(names) - set(reader.schema_arrow.names)
        if missing:
            raise DataError(
                f"columns must be in the file, got {sorted(missing)}; {file} has {reader.schema_arrow.names}."
            )
    length = sum(reader.metadata.num_rows for reader in opened)
    arrays: Arrays = {}
    kept: dict[str, Any] = {}
    for name in names:
        with reading(files[0], f"column {name!r}", "Leave it out with columns=[...], or write the file again."):
            _read_column(opened, name, length, arrays, kept)
    return ParquetSource(arrays, kept, length)


def _read_column(files: list[Any], name: str, length: int, arrays: Arrays, kept: dict[str, Any]) -> None:
    import pyarrow as pa

    start, chunks = 0, []
    for file in files:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=[name]).column(0)
            if not len(column):
                continue
            if column.null_count:
                raise DataError(
                    f"column {name!r} must have no missing values, got {column.null_count}. Fill or drop them."
                )
            if _is_text(column.type):
                chunks += column.chunks
                continue
            values = _numbers(name, column)
            if name not in arrays:
                arrays[name] = np.empty((length, *values.shape[1:]), values.dtype)
            if values.shape[1:] != arrays[name].shape[1:]:
                raise DataError(
                    f"column {name!r} must have lists of one length, got {arrays[name].shape[1:]} and "
                    f"{values.shape[1:]}. Pad them, or keep them as bytes and decode them in a transform."
                )
            if values.dtype != arrays[name].dtype:
                raise DataError(
                    f"column {name!r} must have one type in all files, got {arrays[name].dtype} and {values.dtype}. "
                    "Write the files again with one schema."
                )
            arrays[name][start : start + len(values)] = values
            start += len(values)
    if chunks and name in arrays:
        raise DataError(
            f"column {name!r} must have one type in all files, got text in some and {arrays[name].dtype} in others. "
            "Write the files again with one schema."
        )
    if chunks:
        kept[name] = pa.chunked_array(chunks)
    elif name not in arrays:
        raise DataError(f"column {name!r} must have rows, got a file without any.")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def _numbers(name: str, column: Any) -> np.ndarray:
    """A row group's column as an array of shape (rows,) or (rows, K)."""
    from pyarrow import compute, types

    rows, column = len(column), column.combine_chunks()
    kind, lengths = column.type, None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
        column, kind = column.flatten(), kind.value_type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)) or column.null_count:
        raise DataError(
            f"column {name!r} must be numbers, text, bytes, or lists of numbers without missing values, got {kind} "
            f"with {column.null_count} missing. Leave it out with columns=[...]."
        )
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    if lengths is None:
        return values
    if len(lengths) > 1:
        raise DataError(f"column {name!r} must have lists of one length in every row, got {sorted(lengths)}. Pad them.")
    return values.reshape(rows, -1)
