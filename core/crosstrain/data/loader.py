"""`Loader`: batches of a source in their order, padded, checked, and placed on the devices."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from crosstrain.data.order import BatchRows, batch_count, epoch_batches, pad_rows, padding_weights
from crosstrain.data.placement import WEIGHT, LoaderSpec, Placement, require_some_weight, require_weights
from crosstrain.data.prefetch import in_thread, look_ahead
from crosstrain.data.sources import Arrays, Source, as_source, stack_examples
from crosstrain.data.torch_loader import TorchLoader
from crosstrain.errors import DataError, require_count

_LOOK_AHEAD = 2
_IGNORED_LABEL = -100


class Loader:
    """Batches on the devices. Each iteration is one epoch; `len` is the number of batches in it."""

    def __init__(self, source: Any, spec: LoaderSpec, placement: Placement) -> None:
        self._spec, self._placement = spec, placement
        self._torch_loader = TorchLoader.wrap(source)
        if self._torch_loader is not None:
            self._source: Source | None = self._torch_loader.examples
            self._spec = spec = self._torch_loader.merge(spec)
        else:
            self._source = as_source(source)
        self._iterable: Iterable[Any] = source
        self._epoch = 0
        self._started = False
        self._batch_size = self._check_batch_size(spec.batch_size)
        self._padded_size = self._choose_padded_size()
        self._check_source()

    @property
    def batch_size(self) -> int:
        """Real examples in a full global batch."""
        return self._batch_size

    @property
    def epoch(self) -> int:
        """The epoch (0-based) that the next iteration gives."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of `epoch`."""
        self._epoch = epoch

    @property
    def example_count(self) -> int:
        """Examples that count in one epoch.

        Raises:
            TypeError: the source is an iterable without length.
        """
        if self._source is None:
            raise TypeError(
                "the length of an iterable source is not known; pass steps to Trainer.fit instead of epochs."
            )
        size = len(self._source)
        return size // self._batch_size * self._batch_size if self._spec.drop_last else size

    def __len__(self) -> int:
        return batch_count(self.example_count, self._batch_size, self._spec.drop_last)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        host = self._finish(self._host_batches(epoch))
        cheap = self._source is not None and self._source.fields() is not None and self._spec.transform is None
        return (look_ahead if cheap else in_thread)(map(self._placement.put, host), _LOOK_AHEAD)

    # From the source to this process's part of each batch.

    def _host_batches(self, epoch: int) -> Iterator[tuple[Arrays, np.ndarray]]:
        if self._source is None:
            return self._from_iterable()
        batches = epoch_batches(
            len(self._source),
            self._batch_size,
            self._padded_size,
            order=(self._spec.seed, epoch) if self._spec.shuffle else None,
            drop_last=self._spec.drop_last,
        )
        batches = self._weighed(batches, epoch)
        local = (batch.local(self._placement.process_index, self._placement.process_count) for batch in batches)
        if self._torch_loader is not None:
            return self._torch_loader.fetch(list(local))
        source = self._source
        return ((source.gather(rows), weights) for rows, weights in local)

    def _weighed(self, batches: Iterator[BatchRows], epoch: int) -> Iterator[BatchRows]:
        """The batches of an epoch; one whose weights in the source are all 0 is refused on every process alike."""
        arrays = None if self._source is None or self._spec.transform else self._source.fields()
        weights = (arrays or {}).get(WEIGHT)
        for index, batch in enumerate(batches):
            if weights is not None and np.ndim(weights) == 1:
                require_some_weight(np.asarray(weights[batch.rows[: batch.real]]), f"batch {index} of epoch {epoch}")
            yield batch

    def _from_iterable(self) -> Iterator[tuple[Arrays, np.ndarray]]:
        if self._started and iter(self._iterable) is self._iterable:
            raise DataError(
                "source must start again for every epoch, got an iterator that is used up. "
                "Pass an object whose __iter__ begins anew, not a generator."
            )
        self._started = True
        pool: list[Any] = []
        window: list[Any] = []
        for example in self._iterable:
            window.append(example)
            if len(pool) < self._batch_size:
                pool.append(example)
            if len(window) == self._batch_size:
                yield self._local_window(window, pool)
                window = []
        if not pool:
            raise DataError("source must have at least one example, got an iterable that gave none.")
        if window and not self._spec.drop_last:
            if self._padded_size is None:
                self._placement.require_divisible(len(window), "the last batch")
            yield self._local_window(window, pool)

    def _local_window(self, window: list[Any], pool: list[Any]) -> tuple[Arrays, np.ndarray]:
        examples = window + pool
        batch: BatchRows = pad_rows(
            np.arange(len(window)), self._padded_size or len(window), np.arange(len(window), len(examples))
        )
        rows, weights = batch.local(self._placement.process_index, self._placement.process_count)
        return stack_examples([examples[row] for row in rows]), weights

    def _finish(self, batches: Iterable[tuple[Arrays, np.ndarray]]) -> Iterator[Arrays]:
        checked_once = self._source is not None and self._source.fields() is not None
        for fields, weights in batches:
            if not checked_once:
                self._check_labels(fields)
            batch = self._spec.transform(fields) if self._spec.transform else fields
            require_weights(batch)
            if self._weighs():
                batch = {**batch, WEIGHT: batch[WEIGHT] * weights if WEIGHT in batch else weights}
            self._placement.require_some_weight(batch, "a batch")
            yield self._placement.convert(batch)

    def _weighs(self) -> bool:
        """Whether batches carry weights: only where some batch may be padded, and then all do, in one structure."""
        if self._padded_size is None:
            return False
        if self._padded_size > self._batch_size or self._source is None:
            return True
        return not self._spec.drop_last and len(self._source) % self._batch_size != 0

    # Checks, before any device is touched.

    def _check_batch_size(self, batch_size: int | None) -> int:
        if batch_size is None:
            raise DataError("batch_size must be given, got batch_size=None. Only a torch DataLoader brings its own.")
        require_count("batch_size", batch_size, DataError)
        return batch_size

    def _choose_padded_size(self) -> int | None:
        if self._spec.even_batches:
            return -(-self._batch_size // self._placement.data_size) * self._placement.data_size
        self._placement.require_divisible(self._batch_size, "batch_size")
        if self._source is not None and not self._spec.drop_last and len(self._source) % self._batch_size:
            self._placement.require_divisible(len(self._source) % self._batch_size, "the last batch")
        return None

    def _check_source(self) -> None:
        if self._source is None:
            return
        if len(self._source) == 0:
            raise DataError("source must have at least one example, got an empty one.")
        if len(self) == 0:
            raise DataError(
                f"source must fill one batch when drop_last=True, got {len(self._source)} examples "
                f"for batch_size={self._batch_size}. Use a smaller batch, or drop_last=False."
            )
        arrays = self._source.fields()
        if arrays is not None:
            self._check_labels(arrays)

    def _check_labels(self, fields: Arrays) -> None:
        for name, count in self._spec.class_counts.items():
            if name not in fields:
                raise DataError(f"class_counts names the field {name!r}, but the source has {sorted(fields)}.")
            labels = fields[name]
            wrong = (labels != _IGNORED_LABEL) & ((labels < 0) | (labels >= count))
            if wrong.any():
                where = tuple(int(index) for index in np.argwhere(wrong)[0])
                raise DataError(
                    f"{name} must be in [0, {count}), got {name}={labels[where]} at index {list(where)}. "
                    f"Fix the labels, or build the model for {int(labels.max()) + 1} classes."
                )


__all__ = ["WEIGHT", "Loader", "LoaderSpec", "Placement", "padding_weights"]
