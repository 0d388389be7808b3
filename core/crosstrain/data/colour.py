"""Colour jitter of whole batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstrain.data.pixels import Images, ImageTransform, Pixels, dtype_name
from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform
from crosstrain.errors import DataError

# Luma of red, green and blue (ITU-R BT.601), as pillow and torchvision use it.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class _ColourJitter(ImageTransform):
    brightness: float
    contrast: float
    saturation: float
    field: str

    @property
    def name(self) -> str:
        return "colour_jitter"

    def draw(self, images: Images, context: Context) -> Arrays:
        if images.shape[-1] != 3:
            raise DataError(f"{self.field!r} must have 3 channels for {self.name}, got shape {images.shape}.")
        images.require_white(self.name)
        if images.on_device and images.dtype.kind == "f":
            raise DataError(
                f"{self.field!r} must be integers for {self.name} on the device, got {images.dtype}: whether floats "
                f"are in [0, 1] is known on the host only. Put {self.name} before normalise, or use "
                "transform_on='host'."
            )
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        low, high = np.maximum(0.0, 1.0 - strengths), 1.0 + strengths
        return {"factors": low + context.uniform(3) * (high - low)}

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = np.asarray(fields.get(self.field, 0))
        if images.dtype.kind == "f" and images.size and not (images.min() >= 0 and images.max() <= 1):
            raise DataError(
                f"{self.field!r} must be in [0, 1] for {self.name}, got values from {images.min():.4g} to "
                f"{images.max():.4g}. Put {self.name} before normalise."
            )
        return ImageTransform.apply(self, fields, context)

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        look = Images(images.shape, np.dtype(dtype_name(images)))
        factors = ops.cast(drawn["factors"], look.floating.name)
        # One plane per channel, shape (B, H W): the arithmetic then runs over contiguous numbers.
        values = ops.cast(images, look.floating.name)
        planes = [values[..., channel].reshape(images.shape[0], -1) for channel in range(3)]
        white = look.white
        if self.brightness:
            planes = [ops.clip(plane * factors[:, :1], 0, white) for plane in planes]
        if self.contrast:
            mean = ops.mean(_grey(ops, planes, look))
            planes = [_blend(ops, plane, mean, factors[:, 1:2], white) for plane in planes]
        if self.saturation:
            grey = _grey(ops, planes, look)
            planes = [_blend(ops, plane, grey, factors[:, 2:], white) for plane in planes]
        values = ops.stack(planes).reshape(images.shape)
        return values if look.dtype.kind == "f" else look.rounded(ops, values)


def _grey(ops: Pixels, planes: list[Any], look: Images) -> Any:
    shares = [ops.constant(np.asarray(share, dtype=look.floating), planes[0]) for share in _LUMA]
    red, green, blue = (ops.product(plane, share) for plane, share in zip(planes, shares, strict=True))
    return red + green + blue


def _blend(ops: Pixels, values: Any, other: Any, factor: Any, white: float) -> Any:
    return ops.clip(ops.product(factor, values) + ops.product(1 - factor, other), 0, white)


def colour_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, field: str = "image"
) -> Transform:
    """Changes brightness, contrast and saturation, in this order, by factors drawn per example.

    Each factor f is uniform in [max(0, 1 - strength), 1 + strength]. Brightness: f x. Contrast: f x + (1 - f) m, m the
    mean of the grey image. Saturation: f x + (1 - f) grey(x), with grey = 0.299 R + 0.587 G + 0.114 B. Clipped to
    [0, 1] after each. Of integers the largest value stands for 1, and they are rounded after all three.

    Args:
        brightness: strength, at least 0.
        contrast: likewise.
        saturation: likewise.
        field: of the images, 3 channels; floating ones in [0, 1].

    Raises:
        DataError: a negative strength.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= value < np.inf:
            raise DataError(f"{name} must be at least 0, got {name}={value}.")
    return _ColourJitter(brightness, contrast, saturation, field)
