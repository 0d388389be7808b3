"""CIFAR-10 (Krizhevsky 2009) as its author publishes it: the binary and the python version."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from crosstrain.data.embedded import Split
from crosstrain.data.files import PathLike, reading, require_file
from crosstrain.data.sources import Arrays
from crosstrain.errors import DataError

_RECORD = 1 + 3 * 32 * 32
_CLASSES = 10
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_VERSIONS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}

# All that an array needs. Anything else that a pickle may name could run code.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


def cifar10(folder: PathLike) -> Split:
    """CIFAR-10 from the folder of its binary (`data_batch_1.bin`) or python version (`data_batch_1`).

    Args:
        folder: with the six files, or the one above it.

    Returns:
        `image`: uint8, (N, 32, 32, 3); `label`: int32, (N,).

    Raises:
        DataError: a file that is missing, truncated or of another format.
    """
    root = Path(folder)
    for place in (root, *(root / name for name in _VERSIONS)):
        for suffix in _VERSIONS.values():
            if (place / f"test_batch{suffix}").is_file():
                files = [place / f"{name}{suffix}" for name in _TRAIN]
                return Split(train=cifar10_batches(files), test=cifar10_batches([place / f"test_batch{suffix}"]))
    raise DataError(
        f"folder must hold test_batch.bin or test_batch, got {root}, which has neither. "
        "Unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz there."
    )


def cifar10_batches(paths: list[Path]) -> Arrays:
    """Some of the files, one after the other; see `cifar10`."""
    parts = [_binary(path) if path.suffix == ".bin" else _python(path) for path in paths]
    images = np.concatenate([images for images, _ in parts])
    planes = images.reshape(-1, 3, 32, 32)
    return {
        "image": np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        "label": np.concatenate([labels for _, labels in parts]).astype(np.int32),
    }


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = require_file(path, "a CIFAR-10 file")
    size = file.stat().st_size
    if size % _RECORD:
        raise DataError(
            f"a CIFAR-10 file must hold records of {_RECORD} bytes, got {file} of {size} bytes. "
            "It is truncated or of another data set; unpack it again."
        )
    records = np.fromfile(file, dtype=np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], _labels(records[:, 0], file)


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = require_file(path, "a CIFAR-10 file")
    with reading(file, "a CIFAR-10 file", "It is damaged or of another format; unpack it again."):
        batch: Any = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"a CIFAR-10 file must hold data and labels, got {type(batch).__name__} in {file}.")
    images, labels = batch[b"data"], np.asarray(batch[b"labels"])
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (len(labels), _RECORD - 1):
        shape = getattr(images, "shape", None)
        raise DataError(f"a CIFAR-10 file must hold uint8 data of shape ({len(labels)}, 3072), got {shape} in {file}.")
    return images, _labels(labels, file)


def _labels(labels: np.ndarray, file: Path) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any() or (labels >= _CLASSES).any():
        raise DataError(f"CIFAR-10 labels must be in [0, 10), got others in {file}. Is it of CIFAR-100?")
    return labels


class _ArraysOnly(pickle.Unpickler):
    """Loads arrays, numbers and strings. A pickle that names anything else is refused before it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs; do not trust it")
        return super().find_class(module.replace("numpy.core", "numpy._core") if _HAS_CORE else module, name)


_HAS_CORE = hasattr(np, "_core")
