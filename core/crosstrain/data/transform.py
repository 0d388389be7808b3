"""What a transform is: a function of whole batches whose random numbers belong to the example.

A `Transform` gets a batch of arrays and a `Context`, which says which examples the rows are and gives random numbers
keyed by (seed, epoch, index of the example, name of the transform). So an example is augmented alike on either
engine, in any batch, on any number of processes, and after any resume. Nothing here loops over examples.
"""

import abc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from crosstrain.data.draws import Draws
from crosstrain.data.sources import Arrays
from crosstrain.errors import DataError
from crosstrain.random import example_uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Which examples a batch holds, and the random numbers that belong to them.

    Attributes:
        seed: of the loader.
        epoch: 0-based.
        examples: index in the source of every row (for an iterable its place in the epoch), int64, shape (B,).
        example_count: size of the source; None for an iterable.
        load: the examples of these indices as the transform would get them: gathered from the source, and through
            the transforms that come before it, with their own random numbers. None for an iterable.
        stream: what the random numbers are for; names the transform.
        draws: gives the numbers of several batches at once; None draws those of this one.
    """

    seed: int
    epoch: int
    examples: np.ndarray
    example_count: int | None = None
    load: Callable[[np.ndarray], Arrays] | None = None
    stream: str = ""
    draws: Draws | None = None

    def uniform(self, count: int, name: str = "") -> np.ndarray:
        """Numbers in [0, 1), float64, shape (B, count), of (seed, epoch, example, transform, name)."""
        stream = f"{self.stream}/{name}" if name else self.stream
        draw = self.draws.uniform if self.draws is not None else example_uniform
        return draw(self.seed, stream, self.epoch, self.examples, count)

    def partners(self) -> Arrays:
        """For every row another example, drawn uniformly from the whole source (an example may be its own partner).

        Drawing from the source and not from the batch makes the partner a function of (seed, epoch, example): the
        batch is cut differently by every number of processes, the source is not. It costs a second gather.

        Raises:
            DataError: the source is an iterable, which cannot be asked for an example.
        """
        rows = self.partner_rows()
        assert self.load is not None
        return self.load(rows)

    def partner_rows(self) -> np.ndarray:
        """Index in the source of every row's partner, int64, shape (B,); see `partners`.

        Raises:
            DataError: the source is an iterable.
        """
        if self.load is None or self.example_count is None:
            raise DataError(
                f"the source must have a length for {self.stream}, got an iterable. "
                "It draws a partner for each example from the whole source."
            )
        drawn = (self.uniform(1, "partner")[:, 0] * self.example_count).astype(np.int64)
        return np.minimum(drawn, self.example_count - 1)


class Transform(abc.ABC):
    """A function of a batch and its context. Subclass it for your own; give `apply`."""

    @property
    def name(self) -> str:
        """Names its random numbers: two transforms of one name in a `compose` get numbers of their own."""
        return type(self).__name__

    @abc.abstractmethod
    def apply(self, fields: Arrays, context: Context) -> Arrays:
        """The new batch, with as many rows; `fields`, arrays of shape (B, ...), must stay as they are."""


class _Plain(Transform):
    """A function of the batch alone."""

    def __init__(self, function: Callable[[Arrays], Arrays]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        return getattr(self._function, "__name__", type(self._function).__name__)

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        return self._function(fields)


class Compose(Transform):
    """Transforms one after the other."""

    def __init__(self, parts: list[Transform]) -> None:
        self._parts = parts
        seen: Counter[str] = Counter()
        self._streams: list[str] = []
        for part in parts:
            self._streams.append(f"{part.name}#{seen[part.name]}" if seen[part.name] else part.name)
            seen[part.name] += 1

    @property
    def parts(self) -> list[Transform]:
        """The transforms, in order."""
        return self._parts

    @property
    def streams(self) -> list[tuple[Transform, str]]:
        """The transforms, in order, each with the name of its random numbers."""
        return list(zip(self._parts, self._streams, strict=True))

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        """See `Transform`."""
        return self._apply(fields, context, len(self._parts))

    def _apply(self, fields: Arrays, context: Context, count: int) -> Arrays:
        """The first `count` transforms. A partner of transform k comes through the k transforms before it."""
        for index, (part, stream) in enumerate(zip(self._parts[:count], self._streams, strict=False)):
            load = self._loader(context, index) if context.load else None
            fields = _checked(part, fields, replace(context, stream=stream, load=load))
        return fields

    def _loader(self, context: Context, count: int) -> Callable[[np.ndarray], Arrays]:
        gather = context.load
        assert gather is not None

        def load(examples: np.ndarray) -> Arrays:
            return self._apply(gather(examples), replace(context, examples=examples), count)

        return load


TransformLike = Transform | Callable[[Arrays], Arrays]


def compose(*transforms: TransformLike) -> Compose:
    """One transform that applies these in order. Plain functions of the batch may stand among them.

    Raises:
        DataError: something that cannot be called.
    """
    parts: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, Compose):
            parts += transform.parts
        elif isinstance(transform, Transform):
            parts.append(transform)
        elif callable(transform):
            parts.append(_Plain(transform))
        else:
            raise DataError(
                "transform must be a Transform or a function of a batch, "
                f"got {type(transform).__name__}. Join several with ct.data.compose."
            )
    return Compose(parts)


def _checked(transform: Transform, fields: Arrays, context: Context) -> Arrays:
    rows = len(context.examples)
    result = transform.apply(fields, context)
    if not isinstance(result, Mapping) or not result:
        raise DataError(f"transform {transform.name} must return a dict of arrays, got {type(result).__name__}.")
    sizes = {name: np.shape(values)[:1] for name, values in result.items()}
    if any(size != (rows,) for size in sizes.values()):
        shown = {name: size[0] if size else "a scalar" for name, size in sizes.items()}
        raise DataError(
            f"transform {transform.name} must keep the number of examples, got {shown} for {rows} examples. "
            "Filter or split examples in the source."
        )
    return dict(result)


def images_of(fields: Arrays, field: str, transform: str) -> np.ndarray:
    """The images of a batch, shape (B, H, W, C), contiguous.

    Raises:
        DataError: no such field, or not of that shape.
    """
    if field not in fields:
        raise DataError(f"{transform} needs the field {field!r}, but the batch has {sorted(fields)}. Pass field=...")
    images = np.asarray(fields[field])
    if images.ndim != 4 or images.dtype.kind not in "fiu":
        raise DataError(
            f"{transform} needs {field!r} of shape (B, H, W, C), got {images.dtype} of shape {images.shape}. "
            "Add a channel dimension, or move it to the end."
        )
    return np.ascontiguousarray(images)
