"""`Stack`: batches of one shape as one array for each field, for a call that takes a step for each of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from crosstrain.data.sources import Arrays

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Stack(Sequence[dict[str, Any]]):
    """As a sequence, its batches; taking one out copies it on the devices.

    Attributes:
        fields: device arrays of shape (length, B, ...).
        length: how many batches.
    """

    fields: dict[str, Any]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(f"index must be from 0 to {self.length - 1}, got {index}.")
        return {name: values[index] for name, values in self.fields.items()}


def unstacked(fields: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """A dict for each row of fields that have as many."""
    return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]


def alike(batches: Sequence[dict[str, Any]]) -> bool:
    """Whether all have the same fields, of the same shapes and types."""
    shapes = [{name: (values.shape, values.dtype) for name, values in batch.items()} for batch in batches]
    return all(each == shapes[0] for each in shapes)


def stacked(batches: Sequence[Arrays]) -> Arrays | None:
    """One array for each field; None for batches of unlike shapes or types."""
    return {name: np.stack([each[name] for each in batches]) for name in batches[0]} if alike(batches) else None


def in_groups(items: Iterable[T], count: int, limit: int | None = None) -> Iterator[list[T]]:
    """`count` at a time, fewer at the end, which comes after `limit` of them at the latest.

    An exception comes after the items that were made before it.
    """
    rest, ended = islice(items, limit), False
    while not ended:
        group: list[T] = []
        try:
            group.extend(islice(rest, count))
        except Exception:
            if group:
                yield group
            raise
        ended = len(group) < count
        if group:
            yield group
