"""Transforms on the devices: the batch is copied as it is in the source, with the numbers that decide each transform.

The numbers are drawn on the host (see `pixels`), a few per example; the examples' partners come along as they are in
the source. A `Chain` then changes the pixels: a pure function of arrays, which engines may compile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crosstrain.data.pixels import Images, ImageTransform, MixingTransform, Pixels, dtype_name
from crosstrain.data.resident import Resident
from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, TransformLike, compose, images_of
from crosstrain.errors import DataError


@dataclass(frozen=True, slots=True)
class Chain:
    """The transforms of one epoch, one after the other; equal chains are the same function.

    Attributes:
        parts: in order.
        float_dtype: the type that floating images leave in.
    """

    parts: tuple[ImageTransform, ...]
    float_dtype: str

    def run(
        self, ops: Pixels, fields: Mapping[str, Any], drawn: Mapping[str, Any], held: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The batch with its images changed.

        Args:
            ops: of the engine.
            fields: arrays of shape (B, ...).
            drawn: what `DeviceTransform.draw` gave, on the device.
            held: arrays of shape (N, ...) on the device; fields of these names, and partners, say which rows, (B,).
        """
        changed = {name: _examples(ops, values, held.get(name)) for name, values in fields.items()}
        for field in dict.fromkeys(part.field for part in self.parts):
            images = self._run(ops, changed[field], drawn, held.get(field), "", field, len(self.parts))
            changed[field] = ops.cast(images, self.float_dtype) if np.dtype(dtype_name(images)).kind == "f" else images
        return changed

    def _run(
        self, ops: Pixels, images: Any, drawn: Mapping[str, Any], held: Any, at: str, field: str, count: int
    ) -> Any:
        """The first `count` transforms, those of one field; `at` names the examples' place in the tree of partners."""
        for index, part in enumerate(self.parts[:count]):
            if part.field != field:
                continue
            here, others = f"{at}{index}/", None
            if isinstance(part, MixingTransform):
                partners = _examples(ops, drawn[f"{here}partner"], held)
                others = self._run(ops, partners, drawn, held, here, field, index)
            own = {name.removeprefix(here): values for name, values in drawn.items() if name.startswith(here)}
            images = part.pixels(ops, images, own, others)
        return images


def _examples(ops: Pixels, values: Any, held: Any) -> Any:
    """The rows `values` of what is held; without that they are the examples."""
    return values if held is None else ops.take(held, values, 0)


class DeviceTransform:
    """A transform that runs on the devices: what the host does for it, and the chain that they run.

    Args:
        transform: None where nothing is done but to take examples of a resident source.
        source: None where examples come from the host.

    Attributes:
        held: the fields of the source that are taken from the devices: those that are changed there, or all of them
            where none is.
    """

    def __init__(self, transform: TransformLike | None, source: Resident | None = None) -> None:
        self._parts: list[tuple[ImageTransform, str]] = []
        for part, stream in compose(*() if transform is None else (transform,)).streams:
            if not isinstance(part, ImageTransform):
                raise DataError(
                    f"transform_on='device' must be given with transforms of images, got {part.name}, which is Python "
                    "for the host. Use transform_on='host', or do it in the source."
                )
            self._parts.append((part, stream))
        held = {} if source is None else source.held
        changed = {part.field for part, _ in self._parts} or set(held)
        self.held = {name: values for name, values in held.items() if name in changed}
        self._whole = {} if source is None else {name: source.fields()[name] for name in self.held}

    def chain(self, epoch: int, float_dtype: str) -> Chain:
        """The transforms as they are in this epoch."""
        return Chain(tuple(part.at(epoch) for part, _ in self._parts), float_dtype)

    def draw(self, fields: Arrays, context: Context) -> tuple[Arrays, Arrays]:
        """The batch with its labels as they will be and its images as they are, and what decides the transforms.

        Raises:
            DataError: images or labels that a transform cannot take.
        """
        return self._draw(fields, context, "", len(self._parts))

    def _draw(self, fields: Arrays, context: Context, at: str, count: int) -> tuple[Arrays, Arrays]:
        looks: dict[str, Images] = {}
        drawn: Arrays = {}
        for index, (each, stream) in enumerate(self._parts[:count]):
            part, here = each.at(context.epoch), f"{at}{index}/"
            if part.field not in looks:
                images = images_of({**fields, **self._whole}, part.field, part.name)
                shape = (len(context.examples), *images.shape[1:])
                looks[part.field] = Images(shape, images.dtype, on_device=True)
            own = replace(context, stream=stream)
            numbers = part.draw(looks[part.field], own)
            looks[part.field] = part.after(looks[part.field])
            drawn |= {f"{here}{name}": values for name, values in numbers.items()}
            if isinstance(part, MixingTransform):
                rows, partners = own.partner_rows(), own.partners()
                _, theirs = self._draw(partners, replace(context, examples=rows), here, index)
                drawn |= {f"{here}partner": partners[part.field], **theirs}
                fields = part.labels(fields, partners, numbers)
        return fields, drawn
