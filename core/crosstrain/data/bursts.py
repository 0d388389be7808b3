"""Small batches of arrays are made several at once: one gather, one conversion and one copy for all of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from crosstrain.data.placement import WEIGHT, Placement
from crosstrain.data.position import Position
from crosstrain.data.sources import Arrays, Source
from crosstrain.data.stacks import Stack, in_groups


class _Burst(NamedTuple):
    """Batches of one size: fields of shape (count, B, ...), and the position after each."""

    fields: Arrays
    after: list[Position]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bursts:
    """The batches of a source of arrays without weights, as they are.

    Attributes:
        source: of the examples.
        rows: from a position on, which examples this process has of each batch, and their weights; both of shape (B,).
        placement: where they go.
        weighs: whether batches carry weights.
        converts: whether the arrays are in other types than batches.
    """

    source: Source
    rows: Callable[[Position], Iterator[tuple[np.ndarray, np.ndarray]]]
    placement: Placement
    weighs: bool
    converts: bool

    def batches(self, start: Position, count: int) -> Iterator[tuple[dict[str, Any], Position]]:
        """Those of an epoch from `start` on, each with the position after it; `count` are made at once."""
        for burst in self._made(start, count):
            yield from zip(self.placement.put_each(burst.fields), burst.after, strict=True)

    def stacks(
        self, start: Position, count: int, limit: int | None
    ) -> Iterator[tuple[Sequence[dict[str, Any]], Position]]:
        """The same, `count` at a time; see `Loader.stacks`."""
        put = self.placement.put_stack
        for fields, after in self._made(start, count, limit):
            whole = put is not None and len(after) == count > 1
            yield Stack(put(fields), count) if put and whole else self.placement.put_each(fields), after[-1]

    def _made(self, start: Position, count: int, limit: int | None = None) -> Iterator[_Burst]:
        index = start.batch
        for group in in_groups(self.rows(start), count, limit):
            for size, alike in groupby(group, lambda part: len(part[0])):
                rows, weights = zip(*alike, strict=True)
                after = [Position(start.epoch, index + each) for each in range(1, len(rows) + 1)]
                index += len(rows)
                yield _Burst(self._fields(rows, weights, size), after)

    def _fields(self, rows: Sequence[np.ndarray], weights: Sequence[np.ndarray], size: int) -> Arrays:
        fields = self.source.gather(np.concatenate(rows))
        if self.weighs:
            fields = {**fields, WEIGHT: np.concatenate(weights).astype(self.placement.float_dtype)}
        if self.converts:
            fields = self.placement.convert(fields)
        return {name: values.reshape(len(rows), size, *values.shape[1:]) for name, values in fields.items()}
