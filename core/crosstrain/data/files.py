"""Arrays, text and tokens in plain files, as memory maps; and the checks that every file format shares."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.errors import DataError

PathLike = str | os.PathLike[str]

_TOKEN_TYPES = ("uint16", "uint32")
_NPY_MAGIC = b"\x93NUMPY"


def require_file(path: PathLike, what: str) -> Path:
    """The path of a file that is there and has something in it.

    Raises:
        DataError: names the file, and what it should have been.
    """
    file = Path(path)
    if file.is_dir():
        raise DataError(f"{what} must be a file, got the folder {file}.")
    if not file.is_file():
        raise DataError(f"{what} must exist, got {file}, which is not there. Check the path.")
    if file.stat().st_size == 0:
        raise DataError(f"{what} must have contents, got the empty file {file}. Write or download it again.")
    return file


@contextmanager
def reading(path: Path, what: str, fix: str) -> Iterator[None]:
    """Turns whatever a reader raises into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{what} must be readable, got {path}: {type(error).__name__}: {error}. {fix}".replace("..", ".")
        ) from error


def require_package(name: str, what: str, error: ImportError) -> DataError:
    """The error for a package that is not installed."""
    return DataError(f"{what} needs {name}, which cannot be imported ({error}). Run: pip install 'crosstrain[data]'.")


def npy(paths: Mapping[str, PathLike]) -> Arrays:
    """Arrays in `.npy` files as memory maps: rows are read when they are asked for.

    Args:
        paths: field -> file, as `{"image": "images.npy", "label": "labels.npy"}`.

    Returns:
        The maps by field, a source for `Accelerator.loader`.

    Raises:
        DataError: a file that is missing, truncated, of another format, or that holds Python objects.
    """
    if not isinstance(paths, Mapping) or not paths:
        raise DataError(f"paths must name the fields, got {paths!r}. Use {{'image': 'images.npy'}}.")
    return {name: _map_npy(path) for name, path in paths.items()}


def _map_npy(path: PathLike) -> np.ndarray:
    file = require_file(path, "an .npy file")
    with file.open("rb") as stream:
        if stream.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
            raise DataError(f"an .npy file must begin as np.save writes it, got {file}. Convert it with np.save.")
    with reading(file, "an .npy file", "It is truncated, or holds Python objects; write it again with np.save."):
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


def text(path: PathLike) -> np.ndarray:
    """The bytes of a text file as a memory map, for byte-level models.

    Returns:
        uint8, shape (N,): for `token_windows`.

    Raises:
        DataError: a file that is missing or empty.
    """
    return np.memmap(require_file(path, "a text file"), dtype=np.uint8, mode="r")


def tokens(path: PathLike, *, dtype: Any = "uint16") -> np.ndarray:
    """Token ids in a file as a memory map: raw little-endian numbers (`.bin`, as nanoGPT writes them) or `.npy`.

    Args:
        path: of the file.
        dtype: of a raw file, uint16 or uint32; a `.npy` file says it itself.

    Returns:
        Unsigned or signed integers, shape (N,): for `token_windows` and `pack`.

    Raises:
        DataError: a file that is missing, truncated or of another format.
    """
    file = require_file(path, "a token file")
    with file.open("rb") as stream:
        is_npy = stream.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    if is_npy:
        mapped = _map_npy(file)
        if mapped.ndim != 1 or mapped.dtype.kind not in "iu":
            raise DataError(f"tokens must be a vector of integers, got {file} of {mapped.dtype}, shape {mapped.shape}.")
        return mapped
    if file.suffix == ".npy":
        raise DataError(f"an .npy file must begin as np.save writes it, got {file}. Convert it with np.save.")
    kind = np.dtype(dtype)
    if kind.name not in _TOKEN_TYPES:
        raise DataError(f"dtype must be uint16 or uint32, got dtype={dtype!r}.")
    size = file.stat().st_size
    if size % kind.itemsize:
        raise DataError(
            f"a token file must hold whole {kind.name} numbers, got {file} of {size} bytes. "
            "It is truncated, or dtype is another."
        )
    return np.memmap(file, dtype=kind.newbyteorder("<"), mode="r")
