"""This process's part of each batch, on the host: what the epochs of a loader are made of."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from crosstrain.data.draws import Draws
from crosstrain.data.order import BatchGroup, BatchRows, EpochOrder, pad_rows
from crosstrain.data.placement import WEIGHT, LoaderSpec, Placement, require_some_weight
from crosstrain.data.position import Position
from crosstrain.data.sources import Arrays, Source, stack_examples
from crosstrain.data.stacks import in_groups
from crosstrain.data.stream import Stream
from crosstrain.data.torch_loader import TorchLoader
from crosstrain.data.transform import Context
from crosstrain.data.workers import gathering
from crosstrain.errors import DataError

_DRAWN_AT_ONCE = 2**13
"""Examples for which a transform's random numbers are drawn together."""
_Part = tuple[np.ndarray, np.ndarray, Draws | None]
_Fetched = tuple[tuple[Arrays, Any], _Part]


class Local(NamedTuple):
    """This process's part of one global batch, and how to go on after it."""

    fields: Arrays
    weights: np.ndarray
    context: Callable[[], Context]
    after: Position


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalBatches:
    """Of a source, or of a stream where there is none.

    Attributes:
        torch_loader: fetches the examples of `source`; None where it gathers them itself.
        batch_size: real examples in a full global batch.
        padded_size: rows of it after padding; None leaves the last batch short.
    """

    source: Source | None
    stream: Stream | None
    torch_loader: TorchLoader | None
    spec: LoaderSpec
    placement: Placement
    batch_size: int
    padded_size: int | None

    def __call__(self, start: Position) -> Iterator[Local]:
        """The batches of an epoch from `start` on, before transforms."""
        return self._from_iterable(start) if self.source is None else self._from_source(start)

    def rows(self, start: Position) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which examples of the source this process has of each batch, and their weights."""
        part, parts = self.placement.part, self.placement.parts
        batches = self._weighed(self._epoch(start).batches(start.batch), start)
        return (batch.local(part, parts) for batch in batches)

    def groups(self, start: Position, count: int, limit: int | None) -> Iterator[BatchGroup]:
        """The global batches, `count` at a time and `limit` in all; see `EpochOrder.groups`."""
        return self._epoch(start).groups(count, start.batch, limit)

    def _epoch(self, start: Position) -> EpochOrder:
        assert self.source is not None
        spec, order = self.spec, (self.spec.seed, start.epoch)
        return EpochOrder(
            len(self.source),
            self.batch_size,
            self.padded_size,
            order=order if spec.shuffle else None,
            drop_last=spec.drop_last,
        )

    def _from_source(self, start: Position) -> Iterator[Local]:
        source = self.source
        assert source is not None
        parts = self._parts(self.rows(start))
        with gathering(source, self.spec.workers) as gather:
            fetched: Iterable[_Fetched]
            if self.torch_loader:
                known = list(parts)
                fetched = zip(self.torch_loader.fetch((part[0] for part in known), start), known, strict=True)
            else:
                fetched = (((gather(part[0]), None), part) for part in parts)
            for batch, ((fields, state), (rows, weights, draws)) in enumerate(fetched, start.batch + 1):
                context = partial(
                    Context,
                    seed=self.spec.seed,
                    epoch=start.epoch,
                    examples=rows,
                    example_count=len(source),
                    load=gather,
                    draws=draws,
                )
                yield Local(fields, weights, context, Position(epoch=start.epoch, batch=batch, stream=state))

    def _parts(self, local: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[_Part]:
        """With what draws for each where there are transforms."""
        if self.spec.transform is None:
            yield from ((rows, weights, None) for rows, weights in local)
            return
        size = (self.padded_size or self.batch_size) // self.placement.parts
        for group in in_groups(local, max(1, _DRAWN_AT_ONCE // max(1, size))):
            draws = Draws([rows for rows, _ in group])
            yield from ((rows, weights, draws) for rows, weights in group)

    def _weighed(self, batches: Iterator[BatchRows], start: Position) -> Iterator[BatchRows]:
        """The batches of an epoch; one whose weights in the source are all 0 is refused on every process alike."""
        arrays = None if self.source is None or self.spec.transform else self.source.fields()
        weights = (arrays or {}).get(WEIGHT)
        return batches if weights is None or np.ndim(weights) != 1 else self._some_weight(batches, weights, start)

    def _some_weight(self, batches: Iterator[BatchRows], weights: np.ndarray, start: Position) -> Iterator[BatchRows]:
        for index, batch in enumerate(batches, start.batch):
            name = f"batch {index} of epoch {start.epoch}"
            require_some_weight(np.asarray(weights[batch.rows[: batch.real]]), name)
            yield batch

    def _from_iterable(self, start: Position) -> Iterator[Local]:
        stream = self.stream
        assert stream is not None
        pool, given = stream.pool(start, self.batch_size) if start.batch else [], start.batch
        for batch, window in enumerate(stream.windows(start, self.batch_size), start.batch + 1):
            size = len(window.examples)
            pool = pool or window.examples
            if size < self.batch_size:
                if self.spec.drop_last:
                    continue
                if self.padded_size is None:
                    self.placement.require_divisible(size, "the last batch")
            rows = pad_rows(np.arange(size), self.padded_size or size, np.arange(size, size + len(pool)))
            chosen, weights = rows.local(self.placement.part, self.placement.parts)
            examples = window.examples + pool
            places = np.concatenate([window.first + np.arange(size), np.arange(len(pool))])[chosen]
            context = partial(Context, seed=self.spec.seed, epoch=start.epoch, examples=places)
            after = Position(epoch=start.epoch, batch=batch, stream=window.state)
            yield Local(stack_examples([examples[row] for row in chosen]), weights, context, after)
            given = batch
        if not pool:
            raise DataError("source must have at least one example, got an iterable that gave none.")
        if not given:
            raise DataError(
                f"source must fill one batch when drop_last=True, got an iterable of {len(pool)} examples for "
                f"batch_size={self.batch_size}. Use a smaller batch, or drop_last=False."
            )
