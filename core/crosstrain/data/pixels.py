"""Transforms of images in two halves: numbers drawn per example on the host, and arithmetic on pixels anywhere.

The numbers (offsets, factors, boxes: a few per example) are always drawn by NumPy in float64, so they are the same
wherever the pixels are. The pixels are moved by code written once against `Pixels`, which NumPy, JAX and torch
implement. Every float operation in it is rounded by itself and in a fixed order, so the results are equal bit for bit.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform, images_of
from crosstrain.errors import DataError

Padding = Literal["reflect", "zeros"]


class Pixels(abc.ABC):
    """The operations that transforms need beside arithmetic, indexing and `reshape`; images are (B, H, W, C)."""

    @abc.abstractmethod
    def constant(self, values: np.ndarray, like: Any) -> Any:
        """An array of the host where `like` is."""

    @abc.abstractmethod
    def cast(self, values: Any, dtype: str) -> Any:
        """In another type, named as NumPy does."""

    @abc.abstractmethod
    def product(self, left: Any, right: Any) -> Any:
        """left * right, rounded before anything else is done with it; compilers like to fuse or reorder products."""

    @abc.abstractmethod
    def clip(self, values: Any, low: float, high: float) -> Any:
        """Within [low, high]."""

    @abc.abstractmethod
    def rint(self, values: Any) -> Any:
        """To the nearest integer, halves to the even one."""

    @abc.abstractmethod
    def stack(self, arrays: list[Any]) -> Any:
        """Along a new last dimension."""

    @abc.abstractmethod
    def take(self, values: Any, positions: Any, axis: int) -> Any:
        """The entries `positions` (one dimension, of the host or where `values` are) of an axis."""

    @abc.abstractmethod
    def gather(self, images: Any, lines: Any, columns: Any) -> Any:
        """Of each image the pixels at its own lines, (B, H'), and columns, (B, W'); shape (B, H', W', C)."""

    @abc.abstractmethod
    def mirror(self, images: Any, chosen: Any) -> Any:
        """The images that are chosen, (B,), left to right; the others as they are."""

    @abc.abstractmethod
    def cover(self, images: Any, mask: Any, others: Any) -> Any:
        """`others` (images, or a number of their type) where the mask, (B, H, W), holds; the images elsewhere."""

    def rescale(self, values: Any, shift: np.ndarray, scale: np.ndarray) -> Any:
        """(values - shift) * scale, in the type of the scale."""
        shifted = self.cast(values, scale.dtype.name) - self.constant(shift, values)
        return self.product(shifted, self.constant(scale, values))

    def window(self, images: Any, offsets: Any, padding: int, mode: Padding) -> Any:
        """Windows of the old size of images that are padded on every side, each at its offset: (B, 2), line, column."""
        places = []
        for axis, length in enumerate(images.shape[1:3]):
            steps = self.constant(np.arange(length, dtype=np.int32), offsets)
            places.append(offsets[:, axis : axis + 1] + steps - padding)
        if mode == "reflect":
            lasts = [length - 1 for length in images.shape[1:3]]
            return self.gather(images, *(last - abs(last - abs(at)) for at, last in zip(places, lasts, strict=True)))
        there = [(at >= 0) & (at < length) for at, length in zip(places, images.shape[1:3], strict=True)]
        safe = [at % length for at, length in zip(places, images.shape[1:3], strict=True)]
        return self.cover(self.gather(images, *safe), ~(there[0][:, :, None] & there[1][:, None, :]), 0)

    def box(self, first: Any, end: Any, height: int, width: int) -> Any:
        """Pixels within [first, end) (line, column), shape (B, 2) each; boolean, shape (B, H, W)."""
        lines, columns = (self.constant(np.arange(size, dtype=np.int32)[None], first) for size in (height, width))
        rows = (lines >= first[:, :1]) & (lines < end[:, :1])
        cols = (columns >= first[:, 1:]) & (columns < end[:, 1:])
        return rows[:, :, None] & cols[:, None, :]

    def mean(self, values: Any) -> Any:
        """Over the last dimension of (B, N), shape (B, 1): halves are added to each other again and again."""
        count, rests = values.shape[1], []
        while values.shape[1] > 1:
            half = values.shape[1] // 2
            rests.append(values[:, 2 * half :])
            values = values[:, :half] + values[:, half : 2 * half]
        for rest in rests:
            values = values + rest if rest.shape[1] else values
        return values * self.constant(np.asarray(1.0 / count, dtype=dtype_name(values)), values)


def dtype_name(values: Any) -> str:
    """The type of an array of any framework, as NumPy names it."""
    return str(values.dtype).removeprefix("torch.")


class HostPixels(Pixels):
    """In NumPy. What copies whole lines or pixels at once is several times faster than indexing, and is done so."""

    def constant(self, values: np.ndarray, like: np.ndarray) -> np.ndarray:
        """See `Pixels`."""
        return values

    def cast(self, values: np.ndarray, dtype: str) -> np.ndarray:
        """See `Pixels`."""
        return values.astype(dtype, copy=False)

    def product(self, left: Any, right: Any) -> Any:
        """See `Pixels`."""
        return left * right

    def clip(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """See `Pixels`."""
        return np.clip(values, low, high)

    def rint(self, values: np.ndarray) -> np.ndarray:
        """See `Pixels`."""
        return np.rint(values)

    def stack(self, arrays: list[np.ndarray]) -> np.ndarray:
        """See `Pixels`."""
        return np.stack(arrays, axis=-1)

    def take(self, values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
        """See `Pixels`."""
        return np.take(values, positions, axis=axis)

    def gather(self, images: np.ndarray, lines: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See `Pixels`."""
        return images[np.arange(len(images))[:, None, None], lines[:, :, None], columns[:, None, :]]

    def mirror(self, images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """See `Pixels`."""
        rows, flipped = np.flatnonzero(chosen), images.copy()
        # Whole pixels are moved, so that an inner loop over channels does not decide the speed.
        pixel = np.dtype((np.void, images.shape[-1] * images.itemsize))
        pixels = images.view(pixel)[..., 0], flipped.view(pixel)[..., 0]
        pixels[1][rows] = pixels[0][rows][:, :, ::-1]
        return flipped

    def cover(self, images: np.ndarray, mask: np.ndarray, others: Any) -> np.ndarray:
        """See `Pixels`."""
        covered = images.copy()
        covered[mask] = others if np.isscalar(others) else others[mask]
        return covered

    def rescale(self, values: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """See `Pixels`."""
        rescaled = np.subtract(values, shift, dtype=scale.dtype)
        rescaled *= scale
        return rescaled

    def window(self, images: np.ndarray, offsets: np.ndarray, padding: int, mode: Padding) -> np.ndarray:
        """See `Pixels`."""
        batch, height, width, channels = images.shape
        padded = _pad(images, padding, mode)
        # All crops of all images as one view; indexing it copies the chosen ones, line by line.
        image, line, _, item = padded.strides
        crops = np.lib.stride_tricks.as_strided(
            padded,
            (batch, 2 * padding + 1, 2 * padding + 1, height, width * channels),
            (image, line, channels * item, line, item),
            writeable=False,
        )
        return crops[np.arange(batch), offsets[:, 0], offsets[:, 1]].reshape(images.shape)


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


@dataclass(frozen=True, slots=True)
class Images:
    """What the images of a batch look like, without their pixels.

    Attributes:
        shape: (B, H, W, C).
        dtype: as they reach the transform.
        on_device: whether their pixels are out of the host's reach.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    on_device: bool = False

    @property
    def floating(self) -> np.dtype:
        """Type of arithmetic on them: their own, or float32 for integers."""
        return self.dtype if self.dtype.kind == "f" else np.dtype(np.float32)

    @property
    def white(self) -> float:
        """The value that stands for 1."""
        return 1.0 if self.dtype.kind == "f" else float(np.iinfo(self.dtype).max)

    def require_white(self, name: str) -> None:
        """Refuses integers of 64 bits: what looks like bytes in them is black, and engines may hold them in 32.

        Raises:
            DataError: names the transform, and the type.
        """
        if self.dtype.kind != "f" and self.dtype.itemsize > 4:
            raise DataError(
                f"images must be of a type whose largest value is white for {name}, got {self.dtype}. Cast them in the "
                "source: bytes are images.astype('uint8')."
            )

    def rounded(self, ops: Pixels, values: Any) -> Any:
        """Floating values as integers of this type, in whose range they are but for rounding."""
        limits = np.iinfo(self.dtype)
        top = self.floating.type(limits.max)
        values = ops.rint(values)
        if float(top) > limits.max:  # which no float32 is, and the next one would wrap around to black
            values = ops.clip(values, float(limits.min), float(np.nextafter(top, self.floating.type(0))))
        return ops.cast(values, self.dtype.name)


class ImageTransform(Transform):
    """A transform of one field of images, which can run on the devices too. Equal ones compile once: make it frozen."""

    field: str

    def at(self, epoch: int) -> "ImageTransform":
        """What it is in one epoch, where its settings follow the epoch."""
        return self

    def after(self, images: Images) -> Images:
        """What the images look like afterwards."""
        return images

    def draw(self, images: Images, context: Context) -> Arrays:
        """The numbers that decide it, of shape (B, ...): int32, float64 or boolean.

        Raises:
            DataError: images that it cannot take.
        """
        return {}

    @abc.abstractmethod
    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        """The new images; `drawn` is what `draw` gave, `others` the partners' images where it has `partners`."""

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        """See `Transform`."""
        images = images_of(fields, self.field, self.name)
        part = self.at(context.epoch)
        drawn = part.draw(Images(images.shape, images.dtype), context)
        return {**fields, self.field: part.pixels(HostPixels(), images, drawn, None)}


class MixingTransform(ImageTransform):
    """One whose examples have partners: drawn from the source, and taken through the transforms before it."""

    @abc.abstractmethod
    def labels(self, fields: Arrays, partners: Arrays, drawn: Arrays) -> Arrays:
        """The fields with what the labels become."""

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        """See `Transform`."""
        partners = context.partners()
        images, others = (images_of(each, self.field, self.name) for each in (fields, partners))
        drawn = self.draw(Images(images.shape, images.dtype), context)
        mixed = self.pixels(HostPixels(), images, drawn, others)
        return {**self.labels(fields, partners, drawn), self.field: mixed}
