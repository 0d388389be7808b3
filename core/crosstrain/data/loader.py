"""`Loader`: batches of a source in their order, padded, checked, and placed on the devices."""

import sys
from collections.abc import Generator, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from typing import Any, TypeVar, get_args

from crosstrain.data.bursts import Bursts
from crosstrain.data.device import DeviceTransform
from crosstrain.data.local import LocalBatches
from crosstrain.data.order import batch_count, padding_weights
from crosstrain.data.placement import (
    WEIGHT,
    Augment,
    LoaderSpec,
    Placement,
    TransformOn,
    require_labels,
)
from crosstrain.data.position import Position, dump, parse
from crosstrain.data.prefetch import in_thread, look_ahead
from crosstrain.data.resident import Resident, Rows
from crosstrain.data.singly import Singly
from crosstrain.data.sources import Source, as_source
from crosstrain.data.stream import Stream
from crosstrain.data.torch_loader import TorchLoader, TorchStream
from crosstrain.data.transform import Compose, TransformLike, compose
from crosstrain.errors import DataError, require_count

T = TypeVar("T", bound=Sized)
_LOOK_AHEAD = 2
_BURST, _BURST_BYTES = 16, 2**20


class Loader:
    """Batches on the devices. Each iteration is one epoch; `len` is the number of batches in it.

    `state_dict` says where the training loop stands, and a loader made alike goes on there after `load_state_dict`.
    """

    def __init__(self, source: Any, spec: LoaderSpec, placement: Placement) -> None:
        self._spec, self._placement = spec, placement
        self._source: Source | None = None
        self._stream: Stream | None = None
        self._torch_loader, torch_stream = TorchLoader.wrap(source), TorchStream.wrap(source)
        if self._torch_loader is not None:
            self._source = self._torch_loader.examples
            self._spec = spec = self._torch_loader.merge(spec)
        elif torch_stream is not None:
            self._stream, self._spec = torch_stream, torch_stream.merge(spec)
            spec = self._spec
        else:
            self._source = as_source(source)
            self._stream = Stream(source) if self._source is None else None
        resident = source if isinstance(source, Resident) else None
        self._transform, self._on_device = self._compose(spec, resident)
        if self._on_device is not None:
            placement.require_whole_examples("transforms")
        self._next = self._position = Position(epoch=0)
        self._iteration: object = None
        self._check_workers()
        self._batch_size = self._check_batch_size(spec.batch_size)
        self._padded_size = self._choose_padded_size()
        self._check_source()
        self._arrays = None if self._source is None or self._transform or spec.workers else self._source.fields()
        """What batches are gathered from as they are; None where making one is more than that."""
        self._made = self._make(resident)

    @property
    def batch_size(self) -> int:
        """Real examples in a full global batch."""
        return self._batch_size

    @property
    def epoch(self) -> int:
        """The epoch (0-based) that the next iteration gives."""
        return self._next.epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of `epoch`, from its beginning."""
        self._go_to(Position(epoch=epoch))

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
        return self._hand_out(self._made.batches(self._begin(), self._burst(1)), self._iteration)

    def stacks(self, count: int, limit: int | None = None) -> Iterator[Sequence[dict[str, Any]]]:
        """The batches of an iteration, `count` at a time, for `TrainStep.many`; fewer at the end of the epoch.

        On JAX a `Stack` of them is one copy to the devices, unless shapes differ or transforms run there.

        Args:
            count: at least 1.
            limit: batches after which the iteration ends; None for the whole epoch.

        Raises:
            DataError: `count` is below 1.
        """
        require_count("count", count, DataError)
        return self._hand_out(self._made.stacks(self._begin(), count, limit), self._iteration, count, limit)

    def _begin(self) -> Position:
        """Where a new iteration starts."""
        start, self._iteration = self._next, object()
        self._position, self._next = start, Position(epoch=start.epoch + 1)
        return start

    # Where the training loop stands.

    def state_dict(self) -> dict[str, Any]:
        """The position of the training loop as plain data: batches that it has taken, not those prefetched.

        A batch counts as soon as the loop has it, so save after its step. After the last batch of an epoch the
        position is its end, and the next iteration there gives nothing; once the iteration is over, or before the
        first, it is the beginning of the next.

        Raises:
            DataError: an iterable source whose own state is no plain data.
        """
        return dump(self._position, self._facts())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration go on at this position. Any number of processes may go on.

        Batches before it are not gathered again; only an iterable without a `state_dict` of its own is read over.

        Raises:
            DataError: no such state, or one of another batch size, seed, order or source.
        """
        self._go_to(parse(state, self._facts(), None if self._source is None else len(self)))

    def steps(self, epochs: int, first: int | None = None) -> int:
        """Batches of so many epochs, whichever is the `first`: all have as many.

        Raises:
            TypeError: the source is an iterable without length.
        """
        return len(self) * epochs

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Whatever is read inside, the loader stands afterwards where it stood; for evaluating and for trying steps."""
        kept = self._next, self._position, self._iteration
        try:
            yield
        finally:
            self._next, self._position, self._iteration = kept

    @property
    def resume_note(self) -> str | None:
        """What is not exact when this loader resumes; None when the same batches follow for sure."""
        foreign = self._torch_loader or self._stream
        return None if foreign is None else foreign.resume_note

    @property
    def exact_resume(self) -> bool:
        """Whether crosstrain alone decides what follows after a resume; `resume_note` says what may differ."""
        return self.resume_note is None

    def _facts(self) -> dict[str, Any]:
        return {
            "seed": int(self._spec.seed),
            "shuffle": bool(self._spec.shuffle),
            "batch_size": int(self._batch_size),
            "drop_last": bool(self._spec.drop_last),
            "examples": None if self._source is None else len(self._source),
        }

    def _go_to(self, position: Position) -> None:
        self._next = self._position = position
        self._iteration = None

    def _hand_out(
        self, placed: Iterator[tuple[T, Position]], iteration: object, count: int = 1, limit: int | None = None
    ) -> Iterator[T]:
        with closing(self._ahead(placed, count)) as batches:
            for batch, after in batches:
                if self._iteration is iteration:
                    self._position = after
                if limit is not None:
                    limit -= len(batch)
                yield batch
        if self._iteration is iteration and limit != 0:
            self._position = self._next

    def _ahead(self, placed: Iterator[T], count: int) -> Generator[T, None, None]:
        """Some ahead, each of `count` batches: small ones of arrays several at once, what takes time in a thread."""
        if self._arrays is None:
            return in_thread(placed, _LOOK_AHEAD)
        return look_ahead(placed, _LOOK_AHEAD, self._burst(count))

    def _burst(self, count: int) -> int:
        """How many batches, or stacks of `count`, are made after one another; several only of arrays."""
        if self._arrays is None:
            return 1
        row = sum(values[:1].nbytes for values in self._arrays.values())
        size = count * row * self._batch_size // self._placement.parts
        return max(1, min(_BURST, _BURST_BYTES // max(1, size)))

    # How batches are made.

    def _make(self, resident: Resident | None) -> Singly | Bursts:
        arrays, source, placement = self._arrays, self._source, self._placement
        local = LocalBatches(
            source=Rows(resident, self._on_device.held) if resident and self._on_device else source,
            stream=self._stream,
            torch_loader=self._torch_loader,
            spec=self._spec,
            placement=placement,
            batch_size=self._batch_size,
            padded_size=self._padded_size,
        )
        if source is not None and arrays is not None and WEIGHT not in arrays and not self._on_device:
            return Bursts(
                local=local,
                source=source,
                placement=placement,
                weighs=self._weighs(),
                converts=not placement.takes(arrays),
            )
        return Singly(
            local=local,
            placement=placement,
            transform=self._transform,
            on_device=self._on_device,
            weighs=self._weighs(),
            class_counts=self._spec.class_counts if source is None or source.fields() is None else {},
        )

    def _weighs(self) -> bool:
        """Whether batches carry weights: only where some batch may be padded, and then all do, in one structure."""
        if self._padded_size is None:
            return False
        if self._padded_size > self._batch_size or self._source is None:
            return True
        return not self._spec.drop_last and len(self._source) % self._batch_size != 0

    # Checks, before any device is touched.

    @staticmethod
    def _compose(spec: LoaderSpec, source: Resident | None) -> tuple[Compose | None, DeviceTransform | None]:
        if spec.transform_on not in get_args(TransformOn):
            raise DataError(f"transform_on must be 'host' or 'device', got transform_on={spec.transform_on!r}.")
        if spec.transform is None:
            if spec.transform_on == "device":
                raise DataError("transform must be given with transform_on='device', got transform=None.")
            return None, None if source is None else DeviceTransform(None, source)
        if spec.transform_on == "device":
            return compose(spec.transform), DeviceTransform(spec.transform, source)
        if source is not None:
            raise DataError(
                "transform_on must be 'device' for a source that is there, got transform_on='host'. Give the loader "
                "the arrays of the host for transforms there."
            )
        return compose(spec.transform), None

    def _check_workers(self) -> None:
        workers = self._spec.workers
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise DataError(f"workers must be an integer of at least 0, got workers={workers!r}.")
        if workers and self._torch_loader is not None:
            raise DataError(f"workers must be 0 for a DataLoader, got workers={workers}. Give it num_workers itself.")
        if workers and self._source is None:
            raise DataError(
                f"workers must be 0 for an iterable, got workers={workers}. "
                "Its examples come one after the other; an object with __len__ and __getitem__ can be read by several."
            )

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
        if len(self._source) >= sys.maxsize:  # as grain counts `repeat()`
            raise DataError(
                "source must end, got one that repeats itself for ever. Leave the repetition out: the loader makes "
                "epochs, and Trainer.fit(steps=...) takes as many as it needs."
            )
        if len(self) == 0:
            raise DataError(
                f"source must fill one batch when drop_last=True, got {len(self._source)} examples "
                f"for batch_size={self._batch_size}. Use a smaller batch, or drop_last=False."
            )
        if not self._spec.drop_last:
            self._placement.require_real_parts(len(self._source) % self._batch_size, self._padded_size)
        arrays = self._source.fields()
        if arrays is not None:
            require_labels(arrays, self._spec.class_counts)


__all__ = ["WEIGHT", "Augment", "Loader", "LoaderSpec", "Placement", "TransformLike", "TransformOn", "padding_weights"]
