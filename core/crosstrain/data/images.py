"""Transforms of images that move, cover or rescale the pixels of one example: normalise, crop, translate, flip, cutout.

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
        images.require_white(self.name)
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
        DataError: a std that is not positive; in the loader, integers of 64 bits.
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
        _require_room(self.padding, self.mode, images)
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
    _require_mode(mode)
    return _RandomCrop(padding, mode, field)


@dataclass(frozen=True, slots=True)
class _Translate(ImageTransform):
    offset: tuple[int, int]
    mode: Padding
    field: str

    @property
    def name(self) -> str:
        return "translate"

    @property
    def padding(self) -> int:
        return max(map(abs, self.offset))

    def draw(self, images: Images, context: Context) -> Arrays:
        _require_room(self.padding, self.mode, images)
        offsets = np.array([self.padding - each for each in self.offset], dtype=np.int32)
        return {"offsets": np.tile(offsets, (len(context.examples), 1))}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        return ops.window(images, drawn["offsets"], self.padding, self.mode)


def translate(down: int, right: int, *, mode: Padding = "reflect", field: str = "image") -> Transform:
    """Moves every image by the same whole pixels; no random numbers.

    Args:
        down: pixels; negative ones move it up.
        right: pixels; negative ones move it to the left.
        mode: what comes in at the border, see `random_crop`.
        field: of the images.

    Raises:
        DataError: something that is no integer, or an unknown mode.
    """
    for name, value in (("down", down), ("right", right)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataError(f"{name} must be an integer, got {name}={value!r}.")
    _require_mode(mode)
    return _Translate((down, right), mode, field)


def _require_mode(mode: str) -> None:
    if mode not in get_args(Padding):
        raise DataError(f"mode must be 'reflect' or 'zeros', got mode={mode!r}.")


def _require_room(padding: int, mode: Padding, images: Images) -> None:
    height, width = images.shape[1:3]
    if mode == "reflect" and padding >= min(height, width):
        raise DataError(
            f"padding must be less than the side of the images to reflect them, got padding={padding} "
            f"for {height} x {width}. Use mode='zeros'."
        )


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
class _AlternatingFlip(ImageTransform):
    field: str

    @property
    def name(self) -> str:
        return "alternating_flip"

    def draw(self, images: Images, context: Context) -> Arrays:
        mirrored_first = replace(context, epoch=0).uniform(1)[:, 0] < 0.5
        return {"chosen": mirrored_first ^ (context.epoch % 2 == 1)}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        return ops.mirror(images, drawn["chosen"])


def alternating_flip(*, field: str = "image") -> Transform:
    """Mirrors an image left to right in every other epoch: a random half in even ones, the other half in odd ones.

    Two epochs in a row show every example in both ways, where `flip` shows half of the examples twice alike.
    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (airbench), section 3.6.
    """
    return _AlternatingFlip(field)


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
