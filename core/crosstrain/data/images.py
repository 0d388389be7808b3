"""Transforms of images that move, cover or rescale the pixels of one example: normalise, random crop, flip, cutout.

Images are arrays of shape (B, H, W, C), integers or floating. Everything but `normalise` keeps the type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from crosstrain.data.pixels import Images, ImageTransform, Padding, Pixels, dtype_name
from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform
from crosstrain.errors import DataError, require_count


@dataclass(frozen=True, slots=True)
class _Normalise(ImageTransform):
    mean: tuple[float, ...]
    std: tuple[float, ...]
    field: str

    @property
    def name(self) -> str:
        return "normalise"

    def after(self, images: Images) -> Images:
        return replace(images, dtype=images.floating)

    def draw(self, images: Images, context: Context) -> Arrays:
        channels = images.shape[-1]
        if {len(self.mean), len(self.std)} - {1, channels}:
            raise DataError(
                f"mean and std must have 1 or {channels} values, one per channel, "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        return {}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        look = Images(images.shape, np.dtype(dtype_name(images)))
        _, _, width, channels = images.shape
        mean, std = np.resize(self.mean, channels), np.resize(self.std, channels)
        # Rows of whole lines: an inner loop over three channels would cost more than the arithmetic.
        shift = np.tile(look.white * mean, width).astype(look.floating)
        scale = np.tile(1.0 / (look.white * std), width).astype(look.floating)
        return ops.rescale(images.reshape(-1, width * channels), shift, scale).reshape(images.shape)


def normalise(mean: float | Sequence[float], std: float | Sequence[float], *, field: str = "image") -> Transform:
    """(x - mean) / std per channel. Integers are first divided by their largest value (255 for uint8), to float32.

    Computed as (x - white mean) * (1 / (white std)), white the value that stands for 1: two operations that no
    compiler fuses, so that it is the same to the bit wherever it runs.

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
class _RandomCrop(ImageTransform):
    padding: int
    mode: Padding
    field: str

    @property
    def name(self) -> str:
        return "random_crop"

    def draw(self, images: Images, context: Context) -> Arrays:
        height, width = images.shape[1:3]
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise DataError(
                f"padding must be less than the side of the images to reflect them, got padding={self.padding} "
                f"for {height} x {width}. Use mode='zeros'."
            )
        return {"offsets": (context.uniform(2) * (2 * self.padding + 1)).astype(np.int32)}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        return ops.window(images, drawn["offsets"], self.padding, self.mode)


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
class _Flip(ImageTransform):
    probability: float
    field: str

    @property
    def name(self) -> str:
        return "flip"

    def draw(self, images: Images, context: Context) -> Arrays:
        return {"chosen": context.uniform(1)[:, 0] < self.probability}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        return ops.mirror(images, drawn["chosen"])


def flip(probability: float = 0.5, *, field: str = "image") -> Transform:
    """Mirrors an image left to right with this probability.

    Raises:
        DataError: no probability.
    """
    require_probability("probability", probability)
    return _Flip(probability, field)


@dataclass(frozen=True, slots=True)
class _Cutout(ImageTransform):
    size: int
    fill: float
    field: str

    @property
    def name(self) -> str:
        return "cutout"

    def draw(self, images: Images, context: Context) -> Arrays:
        centre = np.floor(context.uniform(2) * images.shape[1:3]).astype(np.int32)
        return {"first": centre - self.size // 2}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        first = drawn["first"]
        inside = ops.box(first, first + self.size, *images.shape[1:3])
        return ops.cover(images, inside, np.asarray(self.fill).astype(dtype_name(images)).item())


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


def require_probability(name: str, value: float) -> None:
    """Refuses what is not in [0, 1].

    Raises:
        DataError: names it.
    """
    if not 0 <= value <= 1:
        raise DataError(f"{name} must be in [0, 1], got {name}={value}.")
