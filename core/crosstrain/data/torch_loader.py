"""A torch `DataLoader` as a source: its data set, collation and workers, in crosstrain's order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from crosstrain.data.placement import LoaderSpec
from crosstrain.data.sources import Arrays, MapSource, Source, as_fields
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

    @classmethod
    def wrap(cls, source: Any) -> "TorchLoader | None":
        """A source as a DataLoader; None when it is none.

        Raises:
            DataError: a DataLoader whose order or length cannot be taken over.
        """
        names = ("dataset", "collate_fn", "batch_sampler", "sampler", "num_workers")
        if not all(hasattr(source, name) for name in names):
            return None
        if not hasattr(source.dataset, "__len__"):  # torch gives every data set a __getitem__, streams too
            raise DataError(
                "a DataLoader must wrap a map-style data set, got an iterable one. "
                "Pass the iterable data set itself, with batch_size."
            )
        return cls(source)

    def merge(self, spec: LoaderSpec) -> LoaderSpec:
        """What was asked for, completed by what the DataLoader says."""
        return replace(
            spec,
            batch_size=spec.batch_size or self._loader.batch_size,
            shuffle=spec.shuffle or self._shuffle,
            drop_last=spec.drop_last or bool(self._loader.drop_last),
        )

    def fetch(self, batches: Iterable[np.ndarray]) -> Iterator[Arrays]:
        """The batches of these rows, made by the DataLoader's workers and collation."""
        loader = self._loader
        rebuilt = type(loader)(
            loader.dataset,
            batch_sampler=[rows.tolist() for rows in batches],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
        for fields in rebuilt:
            yield as_fields(fields)
