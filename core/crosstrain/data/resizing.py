"""Bilinear resizing of whole batches, with a size that may change with the epoch (progressive resizing)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crosstrain.data.pixels import Images, ImageTransform, Pixels, dtype_name
from crosstrain.data.transform import Transform
from crosstrain.errors import DataError, require_count

Size = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Resize(ImageTransform):
    size: Size | Callable[[int], Size]
    antialias: bool
    field: str

    @property
    def name(self) -> str:
        return "resize"

    def at(self, epoch: int) -> ImageTransform:
        return replace(self, size=_pair(self.size(epoch) if callable(self.size) else self.size))

    def after(self, images: Images) -> Images:
        batch, _, _, channels = images.shape
        return replace(images, shape=(batch, *self._sides(), channels))

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        look, resized = Images(images.shape, np.dtype(dtype_name(images))), images
        for axis, length in enumerate(self._sides(), 1):
            if length != images.shape[axis]:
                resized = _resample(ops, resized, axis, length, self.antialias, look.floating.name)
        if look.dtype.kind != "f" and resized is not images:
            resized = look.rounded(ops, resized)
        return resized

    def _sides(self) -> tuple[int, int]:
        assert not callable(self.size), "of an epoch, see `at`"
        return _pair(self.size)


def resize(size: Size | Callable[[int], Size], *, antialias: bool = True, field: str = "image") -> Transform:
    """Bilinear resizing with half-pixel centres.

    Output pixel i lies at (i + 1/2) n / m - 1/2 of an axis of n pixels that becomes m, and is the mean of the pixels
    around it with the weights max(0, 1 - |distance| / s), normalised to 1 over the pixels that exist. s is 1, or n / m
    with `antialias` where the image shrinks. This is torch's `interpolate(align_corners=False)` and
    `jax.image.resize`, which antialias by default as pillow does; torch does not. Integers are rounded.

    Args:
        size: side, or (height, width), in pixels; or a function of the epoch (0-based) that gives it.
        antialias: widen the filter where the image shrinks.
        field: of the images.

    Raises:
        DataError: a size that is no positive integer.
    """
    if not callable(size):
        _pair(size)
    return _Resize(size, antialias, field)


def _pair(size: Size) -> tuple[int, int]:
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2:
        raise DataError(f"size must be a side or (height, width), got size={size!r}.")
    for side in pair:
        require_count("size", side, DataError)
    return pair


def taps(old: int, new: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of an axis make each new one, and their weights: int64 and float64, both of shape (taps, new)."""
    scale = old / new
    support = max(scale, 1.0) if antialias else 1.0
    centre = (np.arange(new) + 0.5) * scale - 0.5
    first = np.floor(centre - support).astype(np.int64) + 1
    positions = first + np.arange(int(np.ceil(2 * support)) + 1)[:, None]
    if antialias:  # pixels outside do not exist, the others make up for them
        weights = np.maximum(0.0, 1.0 - np.abs(positions - centre) / support)
        weights[(positions < 0) | (positions >= old)] = 0.0
    else:  # pixels outside repeat the edge, which is the same for a filter of two pixels
        weights = np.maximum(0.0, 1.0 - np.abs(positions - centre))
    used = (weights > 0).any(axis=1)
    weights = weights[used] / weights.sum(axis=0)
    return np.clip(positions[used], 0, old - 1), weights


def _resample(ops: Pixels, images: Any, axis: int, length: int, antialias: bool, dtype: str) -> Any:
    positions, weights = taps(images.shape[axis], length, antialias)
    shape = (*images.shape[:axis], length, *images.shape[axis + 1 :])
    # Whole lines at once, or (for columns) the numbers of a line: an inner loop over channels would be slow.
    flat = images.reshape(images.shape[0], images.shape[1], -1)
    if axis == 1:
        weights = weights[:, :, None]
    else:
        channels = images.shape[3]
        weights = np.repeat(weights, channels, axis=1)
        positions = (positions[:, :, None] * channels + np.arange(channels)).reshape(len(positions), -1)
    total: Any = None
    for position, weight in zip(positions, weights.astype(dtype), strict=True):
        taken = ops.cast(ops.take(flat, position, axis), dtype)
        part = ops.product(taken, ops.constant(weight, images))
        total = part if total is None else total + part
    return total.reshape(shape)
