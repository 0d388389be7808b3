"""Real data that is on every machine: scikit-learn's bundled digits, and the standard library's own source."""

import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.errors import DataError
from crosstrain.random import permutation

_SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3"}
# What the build of this very interpreter wrote.
_MACHINE = ("_sysconfigdata", "config-")


class Split(NamedTuple):
    """Training and test examples, dicts of arrays."""

    train: Arrays
    test: Arrays


def digits(*, test_share: float = 0.2, seed: int = 0) -> Split:
    """1797 images of handwritten digits (Alpaydin and Kaynak 1998), as scikit-learn ships them.

    Args:
        test_share: share of the examples held out.
        seed: decides which.

    Returns:
        `image`: float32, (N, 8, 8, 1), mean 0 and standard deviation 1 over the training images; `label`: int32, (N,).

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError("digits needs scikit-learn. Run: pip install 'crosstrain[examples]'.") from error
    data = load_digits()
    order = permutation(seed, 0, len(data.images))
    images, labels = data.images[order, :, :, None], data.target[order].astype(np.int32)
    held_out = int(len(order) * test_share)
    mean, std = images[held_out:].mean(), images[held_out:].std()
    images = ((images - mean) / std).astype(np.float32)
    return Split(
        train={"image": images[held_out:], "label": labels[held_out:]},
        test={"image": images[:held_out], "label": labels[:held_out]},
    )


def stdlib_bytes(*, max_bytes: int | None = None) -> np.ndarray:
    """The Python standard library's own source files, one after the other, as bytes.

    Args:
        max_bytes: stop after this many.

    Returns:
        uint8, shape (N,). The text depends on the Python version, not on the machine.

    Raises:
        DataError: this Python has no readable standard library (a frozen build).
    """
    root = Path(sysconfig.get_path("stdlib"))
    chunks: list[bytes] = []
    size = 0
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _SKIPPED_FOLDERS.intersection(parts) or any(part.startswith(_MACHINE) for part in parts):
            continue
        chunks.append(path.read_bytes())
        size += len(chunks[-1])
        if max_bytes is not None and size >= max_bytes:
            break
    if not chunks:
        raise DataError(f"the standard library must be readable source, found none under {root}.")
    return np.frombuffer(b"".join(chunks), dtype=np.uint8)[:max_bytes]
