"""Small batches of arrays are made several at once: one gather, one conversion and one copy for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from crosstrain.data.local import LocalBatches
from crosstrain.data.order import local_part
from crosstrain.data.placement import WEIGHT, Placement
from crosstrain.data.position import Position
from crosstrain.data.sources import Arrays, Source
from crosstrain.data.stacks import Stack


class _Burst(NamedTuple):
    """Batches of one size: fields of shape (count, B, ...), and the position after each."""

    fields: Arrays
    after: list[Position]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bursts:
    """The batches of a source of arrays without weights, as they are.

    Attributes:
        local: says which examples are in which batch.
        source: of the examples.
        placement: where they go.
        weighs: whether batches carry weights.
        converts: whether the arrays are in other types than batches.
    """

    local: LocalBatches
    source: Source
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
        part, parts, index = self.placement.part, self.placement.parts, start.batch
        for group in self.local.groups(start, count, limit):
            rows = local_part(group.rows, part, parts)
            weights = local_part(group.weights(), part, parts) if self.weighs else None
            after = [Position(start.epoch, index + each) for each in range(1, len(rows) + 1)]
            index += len(rows)
            yield _Burst(self._fields(rows, weights), after)

    def _fields(self, rows: np.ndarray, weights: np.ndarray | None) -> Arrays:
        fields = self.source.gather(rows.reshape(-1))
        if weights is not None:
            fields = {**fields, WEIGHT: weights.reshape(-1).astype(self.placement.float_dtype)}
        if self.converts:
            fields = self.placement.convert(fields)
        return {name: values.reshape(*rows.shape, *values.shape[1:]) for name, values in fields.items()}
