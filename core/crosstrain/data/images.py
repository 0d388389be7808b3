"""Transforms of images that move, cover or rescale the pixels of one example: normalise, random crop, flip, cutout.

Images are arrays of shape (B, H, W, C), integers or floating. Everything but `normalise` keeps the type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform, images_of
from crosstrain.errors import DataError, require_count

Padding = Literal["reflect", "zeros"]


@dataclass(frozen=True, slots=True)
class _Normalise(Transform):
    mean: tuple[float, ...]
    std: tuple[float, ...]
    field: str

    @property
    def name(self) -> str:
        return "normalise"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = images_of(fields, self.field, self.name)
        channels = images.shape[-1]
        if {len(self.mean), len(self.std)} - {1, channels}:
            raise DataError(
                f"mean and std must have 1 or {channels} values, one per channel, "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        white = 1.0 if images.dtype.kind == "f" else float(np.iinfo(images.dtype).max)
        dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
        mean, std = np.resize(self.mean, channels), np.resize(self.std, channels)
        # Rows of whole lines: an inner loop over three channels would cost more than the arithmetic.
        width = images.shape[2]
        scale, shift = np.tile(1.0 / (white * std), width).astype(dtype), np.tile(mean / std, width).astype(dtype)
        lines = np.multiply(images.reshape(-1, width * channels), scale, dtype=dtype)
        lines -= shift
        return {**fields, self.field: lines.reshape(images.shape)}


def normalise(mean: float | Sequence[float], std: float | Sequence[float], *, field: str = "image") -> Transform:
    """(x - mean) / std per channel. Integers are first divided by their largest value (255 for uint8), to float32.

    Args:
        mean: one value, or one per channel, in units in which white is 1.
        std: likewise, positive.
        field: of the images.

    Raises:
        DataError: a std that is not positive.
    """
    means, stds = tuple(np.atleast_1d(mean).astype(float).tolist()), tuple(np.atleast_1d(std).astype(float).tolist())
    if not all(value > 0 for value in stds):
        raise DataError(f"std must be positive, got std={std}.")
    return _Normalise(means, stds, field)


@dataclass(frozen=True, slots=True)
class _RandomCrop(Transform):
    padding: int
    mode: Padding
    field: str

    @property
    def name(self) -> str:
        return "random_crop"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = images_of(fields, self.field, self.name)
        batch, height, width, channels = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise DataError(
                f"padding must be less than the side of the images to reflect them, got padding={self.padding} "
                f"for {height} x {width}. Use mode='zeros'."
            )
        offsets = (context.uniform(2) * (2 * self.padding + 1)).astype(np.int64)
        padded = _pad(images, self.padding, self.mode)
        # All crops of all images as one view; indexing it copies the chosen ones, line by line.
        image, line, _, item = padded.strides
        crops = np.lib.stride_tricks.as_strided(
            padded,
            (batch, 2 * self.padding + 1, 2 * self.padding + 1, height, width * channels),
            (image, line, channels * item, line, item),
            writeable=False,
        )
        chosen = crops[np.arange(batch), offsets[:, 0], offsets[:, 1]]
        return {**fields, self.field: chosen.reshape(images.shape)}


def _pad(images: np.ndarray, padding: int, mode: Padding) -> np.ndarray:
    batch, height, width, channels = images.shape
    shape = (batch, height + 2 * padding, width + 2 * padding, channels)
    padded = np.empty(shape, images.dtype) if mode == "reflect" else np.zeros(shape, images.dtype)
    padded[:, padding : padding + height, padding : padding + width] = images
    if mode == "reflect":
        for axis, length in ((2, width), (1, height)):
            lines = np.moveaxis(padded, axis, 0)
            for step in range(1, padding + 1):
                lines[padding - step] = lines[padding + step]
                lines[padding + length - 1 + step] = lines[padding + length - 1 - step]
    return padded


def random_crop(padding: int, *, mode: Padding = "reflect", field: str = "image") -> Transform:
    """Pads every side and cuts a window of the old size at a uniformly drawn place (He et al. 2016, section 4.2).

    Args:
        padding: pixels on every side.
        mode: what the border holds: the image mirrored at its edge (the edge itself not repeated), or zeros.
        field: of the images.

    Raises:
        DataError: a padding that is no positive integer, or an unknown mode.
    """
    require_count("padding", padding, DataError)
    if mode not in get_args(Padding):
        raise DataError(f"mode must be 'reflect' or 'zeros', got mode={mode!r}.")
    return _RandomCrop(padding, mode, field)


@dataclass(frozen=True, slots=True)
class _Flip(Transform):
    probability: float
    field: str

    @property
    def name(self) -> str:
        return "flip"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = images_of(fields, self.field, self.name)
        chosen = np.flatnonzero(context.uniform(1)[:, 0] < self.probability)
        flipped = images.copy()
        # Whole pixels are moved, so that an inner loop over channels does not decide the speed.
        pixel = np.dtype((np.void, images.shape[-1] * images.itemsize))
        pixels = images.view(pixel)[..., 0], flipped.view(pixel)[..., 0]
        pixels[1][chosen] = pixels[0][chosen][:, :, ::-1]
        return {**fields, self.field: flipped}


def flip(probability: float = 0.5, *, field: str = "image") -> Transform:
    """Mirrors an image left to right with this probability.

    Raises:
        DataError: no probability.
    """
    require_probability("probability", probability)
    return _Flip(probability, field)


@dataclass(frozen=True, slots=True)
class _Cutout(Transform):
    size: int
    fill: float
    field: str

    @property
    def name(self) -> str:
        return "cutout"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = images_of(fields, self.field, self.name)
        height, width = images.shape[1:3]
        centre = np.floor(context.uniform(2) * (height, width))
        first = centre - self.size // 2
        inside = box_mask(first, first + self.size, height, width)
        cut = images.copy()
        cut[inside] = self.fill
        return {**fields, self.field: cut}


def cutout(size: int, *, fill: float = 0.0, field: str = "image") -> Transform:
    """Covers a square whose centre is drawn uniformly over the pixels (DeVries and Taylor 2017).

    The square covers pixels centre - size // 2 up to centre - size // 2 + size - 1 and is clipped at the border, so
    that images are covered in part. The paper covers with zeros after normalising: put it after `normalise`.

    Args:
        size: side of the square in pixels.
        fill: what covers it.
        field: of the images.

    Raises:
        DataError: a size that is no positive integer.
    """
    require_count("size", size, DataError)
    return _Cutout(size, fill, field)


def box_mask(first: np.ndarray, end: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels within [first, end) (line, column), shape (B, 2) each; boolean, shape (B, H, W)."""
    lines, columns = np.arange(height)[None, :], np.arange(width)[None, :]
    rows = (lines >= first[:, :1]) & (lines < end[:, :1])
    cols = (columns >= first[:, 1:]) & (columns < end[:, 1:])
    return rows[:, :, None] & cols[:, None, :]


def require_probability(name: str, value: float) -> None:
    """Refuses what is not in [0, 1].

    Raises:
        DataError: names it.
    """
    if not 0 <= value <= 1:
        raise DataError(f"{name} must be in [0, 1], got {name}={value}.")
