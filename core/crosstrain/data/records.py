"""Records in array_record files, decoded when they are asked for."""

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosstrain.data.files import PathLike, reading, require_file, require_package
from crosstrain.data.sources import Arrays, Source, example_named, stack_examples
from crosstrain.errors import DataError


class RecordSource(Source):
    """Records by index; see `array_record`."""

    def __init__(self, reader: Any, decode: Callable[[bytes], Mapping[str, Any]]) -> None:
        self._reader, self._decode = reader, decode

    def __len__(self) -> int:
        return len(self._reader)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        return stack_examples([example_named(int(row), self._read) for row in rows])

    def _read(self, row: int) -> Mapping[str, Any]:
        return self._decode(self._reader[row])


def array_record(paths: PathLike | Sequence[PathLike], decode: Callable[[bytes], Mapping[str, Any]]) -> RecordSource:
    """The records of one or more array_record files (what grain reads), one after the other.

    A grain data source itself can be given to the loader as well: it has `__len__` and `__getitem__`.

    Args:
        paths: a file, a list of files, or a pattern such as `train-*.array_record`.
        decode: makes a dict of arrays from the bytes of one record. Called from several threads with `workers`.

    Raises:
        DataError: array_record is not installed; a file that is missing or of another format.
    """
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise require_package("array_record", "array_record", error) from error
    files = [require_file(path, "an array_record file") for path in _expand(paths)]
    for file in files:
        with reading(file, "an array_record file", "It is damaged or of another format."):
            _check(file)
    return RecordSource(ArrayRecordDataSource([str(file) for file in files]), decode)


def _expand(paths: PathLike | Sequence[PathLike]) -> list[PathLike]:
    if isinstance(paths, str) and glob.has_magic(paths):
        found: list[PathLike] = [*sorted(glob.glob(paths))]
        if not found:
            raise DataError(f"paths must match at least one file, got paths={paths!r}.")
        return found
    listed: list[PathLike] = [paths] if isinstance(paths, str | Path) or hasattr(paths, "__fspath__") else [*paths]
    if not listed:
        raise DataError("paths must name at least one file, got none.")
    return listed


def _check(file: Path) -> None:
    """Opens a file alone: the reader of many files opens them late, in the middle of an epoch."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(file))
    try:
        if not reader.ok() or reader.num_records() == 0:
            raise DataError(
                f"an array_record file must have records, got {file}. Is it whole, and closed by its writer?"
            )
    finally:
        reader.close()
