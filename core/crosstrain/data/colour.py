"""Colour jitter of whole batches."""

from dataclasses import dataclass

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform, images_of
from crosstrain.errors import DataError

# Luma of red, green and blue (ITU-R BT.601), as pillow and torchvision use it.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class _ColourJitter(Transform):
    brightness: float
    contrast: float
    saturation: float
    field: str

    @property
    def name(self) -> str:
        return "colour_jitter"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        images = images_of(fields, self.field, self.name)
        values = self._to_unit(images)
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        low, high = np.maximum(0.0, 1.0 - strengths), 1.0 + strengths
        factors = (low + context.uniform(3) * (high - low)).astype(values.dtype)
        # One plane per channel, shape (B, H W): the arithmetic then runs over contiguous numbers.
        planes = [np.ascontiguousarray(values[..., channel]).reshape(len(values), -1) for channel in range(3)]
        if self.brightness:
            planes = [np.clip(plane * factors[:, :1], 0, 1) for plane in planes]
        if self.contrast:
            mean = _grey(planes).mean(axis=1, keepdims=True, dtype=np.float64).astype(values.dtype)
            planes = [_blend(plane, mean, factors[:, 1:2]) for plane in planes]
        if self.saturation:
            grey = _grey(planes)
            planes = [_blend(plane, grey, factors[:, 2:]) for plane in planes]
        values = np.stack(planes, axis=-1).reshape(images.shape)
        if images.dtype.kind != "f":
            values = np.rint(values * np.iinfo(images.dtype).max).astype(images.dtype)
        return {**fields, self.field: values}

    def _to_unit(self, images: np.ndarray) -> np.ndarray:
        if images.shape[-1] != 3:
            raise DataError(f"{self.field!r} must have 3 channels for {self.name}, got shape {images.shape}.")
        if images.dtype.kind == "f":
            if images.size and not (images.min() >= 0 and images.max() <= 1):
                raise DataError(
                    f"{self.field!r} must be in [0, 1] for {self.name}, got values from {images.min():.4g} to "
                    f"{images.max():.4g}. Put {self.name} before normalise."
                )
            return images
        return images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)


def _grey(planes: list[np.ndarray]) -> np.ndarray:
    red, green, blue = (plane * plane.dtype.type(share) for plane, share in zip(planes, _LUMA, strict=True))
    return red + green + blue


def _blend(values: np.ndarray, other: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.clip(factor * values + (1 - factor) * other, 0, 1)


def colour_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, field: str = "image"
) -> Transform:
    """Changes brightness, contrast and saturation, in this order, by factors drawn per example.

    Each factor f is uniform in [max(0, 1 - strength), 1 + strength]. Brightness: f x. Contrast: f x + (1 - f) m, m the
    mean of the grey image. Saturation: f x + (1 - f) grey(x), with grey = 0.299 R + 0.587 G + 0.114 B. Clipped to
    [0, 1] after each. Integers are divided by their largest value before and rounded after.

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
