"""Batches that are made for themselves, one by one: of examples, of a stream, through transforms, with weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosstrain.data.device import DeviceTransform
from crosstrain.data.local import Local, LocalBatches
from crosstrain.data.placement import WEIGHT, Placement, require_labels, require_weights
from crosstrain.data.position import Position
from crosstrain.data.sources import Arrays
from crosstrain.data.stacks import Stack, in_groups, stacked
from crosstrain.data.transform import Compose


@dataclass(frozen=True, kw_only=True, slots=True)
class Singly:
    """See `crosstrain.data.bursts.Bursts` for what is made several at once.

    Attributes:
        local: this process's part of each, before transforms.
        placement: where they go.
        transform: what is done on the host; None for nothing.
        on_device: what is done on the devices; None for nothing.
        weighs: whether batches carry weights.
        class_counts: of the label fields that are checked in each batch.
    """

    local: LocalBatches
    placement: Placement
    transform: Compose | None
    on_device: DeviceTransform | None
    weighs: bool
    class_counts: Mapping[str, int]

    def batches(self, start: Position, _: int) -> Iterator[tuple[dict[str, Any], Position]]:
        """Those of an epoch from `start` on, each with the position after it."""
        return ((self._put(local), local.after) for local in self.local(start))

    def stacks(
        self, start: Position, count: int, limit: int | None
    ) -> Iterator[tuple[Sequence[dict[str, Any]], Position]]:
        """The same, `count` at a time; see `Loader.stacks`."""
        put = self.placement.put_stack if self.on_device is None and count > 1 else None
        # Finished while the threads that gather are there, as partners are asked for: they go with the last batch.
        finish = self._put if put is None else self._on_host
        made = ((finish(local), local.after) for local in self.local(start))
        for group in in_groups(made, count, limit):
            batches: Sequence[dict[str, Any]] = [batch for batch, _ in group]
            if put is not None:
                fields = stacked(batches) if len(batches) == count else None
                batches = [*map(self.placement.put, batches)] if fields is None else Stack(put(fields), count)
            yield batches, group[-1][1]

    def _on_host(self, local: Local) -> Arrays:
        fields = self.transform.apply(local.fields, local.context()) if self.transform else local.fields
        return self._finish(fields, local)

    def _put(self, local: Local) -> dict[str, Any]:
        if self.on_device is None:
            return self.placement.put(self._on_host(local))
        context = local.context()
        fields, drawn = self.on_device.draw(local.fields, context)
        chain = self.on_device.chain(context.epoch, self.placement.float_dtype)
        put, augment = self.placement.put, self.placement.augment
        assert augment is not None
        placed = put(self._finish(fields, local)), put(self.placement.convert(drawn))
        return augment(chain, *placed, self.on_device.held)

    def _finish(self, batch: Arrays, local: Local) -> Arrays:
        if self.class_counts:
            require_labels(local.fields, self.class_counts)
        require_weights(batch)
        if self.weighs:
            batch = {**batch, WEIGHT: batch[WEIGHT] * local.weights if WEIGHT in batch else local.weights}
        self.placement.require_some_weight(batch, "a batch")
        return self.placement.convert(batch)
