"""MNIST and its relatives: the idx format (LeCun et al. 1998), plain or compressed with gzip."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from crosstrain.data.embedded import Split
from crosstrain.data.files import PathLike, reading, require_file
from crosstrain.data.sources import Arrays
from crosstrain.errors import DataError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DIMENSIONS = 8


def idx(path: PathLike) -> np.ndarray:
    """The array in an idx or idx.gz file, in native byte order.

    Raises:
        DataError: a file that is missing, truncated, longer than its header says, or of another format.
    """
    file = require_file(path, "an idx file")
    with file.open("rb") as stream:
        opened = gzip.open if stream.read(2) == _GZIP_MAGIC else open
    with reading(file, "an idx file", "It is damaged; download it again."), opened(file, "rb") as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= _MAX_DIMENSIONS:
            raise DataError(f"an idx file must begin with its magic number, got {head.hex()} in {file}.")
        sizes = stream.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise DataError(f"an idx file must have {head[3]} dimensions in its header, but {file} ends before.")
        shape = struct.unpack(f">{head[3]}I", sizes)
        dtype = np.dtype(_TYPES[head[2]])
        expected = math.prod(shape) * dtype.itemsize
        # Read in pieces: a header may promise far more than the file holds.
        data = _read_at_most(stream, expected + 1)
    if len(data) != expected:
        found = "more" if len(data) > expected else f"{len(data)} bytes"
        raise DataError(
            f"an idx file of shape {shape} must have {expected} bytes after its header, got {found} in {file}. "
            "It is truncated or damaged; download it again."
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_at_most(stream: "gzip.GzipFile | object", size: int) -> bytes:
    pieces, left = [], size
    while left > 0 and (piece := stream.read(min(left, 1 << 24))):  # type: ignore[union-attr]
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def mnist(folder: PathLike) -> Split:
    """The four files of MNIST (or Fashion-MNIST, KMNIST) in a folder, plain or gzipped.

    Returns:
        `image`: uint8, (N, 28, 28, 1); `label`: int32, (N,).

    Raises:
        DataError: a file that is missing or damaged, or images and labels that do not belong together.
    """
    root = Path(folder)
    return Split(train=_part(root, "train"), test=_part(root, "t10k"))


def _part(root: Path, name: str) -> Arrays:
    images, labels = idx(_find(root, f"{name}-images", 3)), idx(_find(root, f"{name}-labels", 1))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{name}-images and {name}-labels must have one row per example, got shapes {images.shape} and "
            f"{labels.shape} in {root}."
        )
    return {"image": images[..., None], "label": labels.astype(np.int32)}


def _find(root: Path, name: str, dimensions: int) -> Path:
    names = [f"{name}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for candidate in names:
        if (root / candidate).is_file():
            return root / candidate
    raise DataError(f"folder must hold {names[0]} or {names[1]}, got {root}, which has neither.")
