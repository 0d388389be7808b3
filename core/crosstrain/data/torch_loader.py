"""A torch `DataLoader` as a source: its data set, collation and workers, in crosstrain's order.

torchdata's `StatefulDataLoader` is one that also says where its data set stands, worker by worker: a data set that has
a `state_dict` of its own goes on from it, and a stream may then come through workers.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosstrain.data.placement import LoaderSpec
from crosstrain.data.position import Position
from crosstrain.data.sources import Arrays, MapSource, Source, as_fields, kept
from crosstrain.data.stream import END, Stream, Window, has_state
from crosstrain.errors import DataError


class TorchLoader:
    """A torch `DataLoader`, recognised by its attributes: its data set, collation and workers, in our order.

    Its own sampler draws from torch's global generator, which differs between processes and runs. So the loader
    is rebuilt with a batch sampler that follows crosstrain's order; shuffling is kept when it had a random sampler.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        sampler = type(loader.sampler).__name__
        batch_sampler = type(loader.batch_sampler).__name__
        if sampler not in ("SequentialSampler", "RandomSampler") or batch_sampler != "BatchSampler":
            raise DataError(
                f"a DataLoader must use a plain sequential or random sampler, got {sampler} in {batch_sampler}. "
                "Pass its data set instead of the DataLoader; crosstrain orders and shards it."
            )
        self.examples: Source = MapSource(loader.dataset, loader.collate_fn)
        if getattr(loader.sampler, "replacement", False) or len(loader.sampler) != len(loader.dataset):
            raise DataError(
                "a DataLoader must go over its data set once per epoch, got a sampler of "
                f"{len(loader.sampler)} examples over a data set of {len(loader.dataset)}, or one with replacement. "
                "Pass a data set that holds the examples you want, such as a torch Subset."
            )
        self._shuffle = sampler == "RandomSampler"
        self._has_state = has_state(loader) and has_state(loader.dataset)

    @classmethod
    def wrap(cls, source: Any) -> "TorchLoader | None":
        """A source as a DataLoader; None when it is none.

        Raises:
            DataError: a DataLoader whose order or length cannot be taken over.
        """
        if not _is_loader(source):
            return None
        if _is_stream(source):
            if has_state(source):
                return None  # see `TorchStream`
            raise DataError(
                "a DataLoader must wrap a map-style data set, got an iterable one. "
                "Pass the iterable data set itself, with batch_size, or torchdata's StatefulDataLoader."
            )
        return cls(source)

    @property
    def resume_note(self) -> str:
        """What is not exact after a resume."""
        if self._has_state:
            return (
                "Order and position are exact, and the data set goes on from its own state_dict (with several "
                "processes from that of the main process, in as many workers); random numbers from generators that it "
                "does not save are drawn anew."
            )
        return (
            "Order and position are exact; random numbers that the data set, its workers or collate_fn draw by "
            "themselves are drawn anew. Augment with transform= instead."
        )

    def merge(self, spec: LoaderSpec) -> LoaderSpec:
        """What was asked for, completed by what the DataLoader says."""
        return replace(
            spec,
            batch_size=spec.batch_size or self._loader.batch_size,
            shuffle=spec.shuffle or self._shuffle,
            drop_last=spec.drop_last or bool(self._loader.drop_last),
        )

    def fetch(self, batches: Iterable[np.ndarray], start: Position) -> Iterator[tuple[Arrays, Any]]:
        """The batches of these rows, made by the DataLoader's workers and collation.

        Args:
            batches: from the position on.
            start: the position.

        Yields:
            A batch and the DataLoader's state after it, where its data set has one.
        """
        loader = self._loader
        goes_on = self._has_state and start.batch > 0
        # A loader that goes on counts the batches before, and reads none of them.
        before: Sequence[list[int]] = [[]] * start.batch if goes_on else []
        rebuilt = type(loader)(
            loader.dataset,
            batch_sampler=[*before, *(rows.tolist() for rows in batches)],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
        if goes_on:
            rebuilt.load_state_dict(copy.deepcopy(start.stream))
        for batch in rebuilt:
            fields = as_fields(batch)
            # Several are there at a time, and a collate_fn in this process may make the next one in the same memory.
            fields = fields if loader.num_workers else kept(fields)
            yield fields, copy.deepcopy(rebuilt.state_dict()) if self._has_state else None


class TorchStream(Stream):
    """A `StatefulDataLoader` over an iterable data set: each of its batches is a global batch, also a short one."""

    def __init__(self, loader: Any) -> None:
        self._source: Any = loader
        self._dataset = loader.dataset
        self._started = False
        self._initial = copy.deepcopy(self._dataset.state_dict()) if has_state(self._dataset) else None

    @classmethod
    def wrap(cls, source: Any) -> "TorchStream | None":
        """A source as such a loader; None when it is none."""
        return cls(source) if _is_loader(source) and _is_stream(source) and has_state(source) else None

    @property
    def resume_note(self) -> str:
        """See `Stream`."""
        return (
            "The DataLoader's own state_dict decides what follows, in as many workers: a data set without a state_dict "
            "is read over, and random numbers from generators that it does not save are drawn anew."
        )

    def merge(self, spec: LoaderSpec) -> LoaderSpec:
        """What was asked for, completed by what the DataLoader says.

        Raises:
            DataError: another batch size than the DataLoader's, or one that does not batch.
        """
        own = self._source.batch_size
        if own is None or spec.batch_size not in (None, own):
            raise DataError(
                f"batch_size must be that of the DataLoader, got batch_size={spec.batch_size} for {own}. "
                "Give the StatefulDataLoader the size of the global batch, and leave it out here."
            )
        return replace(spec, batch_size=own)

    def pool(self, position: Position, size: int) -> list[Any]:
        """See `Stream`."""
        self._restart(position.epoch)
        batch = next(iter(self._source), None)
        return [] if batch is None else _examples(batch)[:size]

    def windows(self, position: Position, batch_size: int) -> Iterator[Window]:
        """See `Stream`."""
        self._restart(position.epoch)
        if position.batch:
            if position.stream == END:
                return
            self._source.load_state_dict(copy.deepcopy(position.stream))
        for index, (batch, state) in enumerate(self._batches(), position.batch):
            yield Window(_examples(batch), index * batch_size, state)

    def _restart(self, epoch: int) -> None:
        if self._started:
            self._source.load_state_dict({})  # forgets the last epoch
            if self._initial is not None:
                self._dataset.load_state_dict(copy.deepcopy(self._initial))
        self._started = True
        if callable(getattr(self._dataset, "set_epoch", None)):
            self._dataset.set_epoch(epoch)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        """Each batch with the state after it, one batch late: a loader that is at its end does not know it yet."""
        batches = iter(self._source)
        batch = next(batches, END)
        while batch is not END:
            state = copy.deepcopy(self._source.state_dict())
            following = next(batches, END)
            yield batch, END if following is END else state
            batch = following


def _examples(batch: Any) -> list[Arrays]:
    fields = as_fields(batch)
    count = len(next(iter(fields.values())))
    return [{name: values[row] for name, values in fields.items()} for row in range(count)]


def _is_loader(source: Any) -> bool:
    return all(hasattr(source, name) for name in ("dataset", "collate_fn", "batch_sampler", "sampler", "num_workers"))


def _is_stream(loader: Any) -> bool:
    # torch gives every data set a __getitem__, streams too, and some streams have a length.
    return not hasattr(loader.dataset, "__len__") or type(loader.sampler).__name__ == "_InfiniteConstantSampler"
