"""What a loader is asked for, and where its batches go: types, divisibility, this process's part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crosstrain.data.sources import Arrays
from crosstrain.data.stacks import unstacked
from crosstrain.data.transform import TransformLike
from crosstrain.errors import DataError

if TYPE_CHECKING:
    from crosstrain.data.device import Chain

Augment = Callable[["Chain", dict[str, Any], dict[str, Any], dict[str, Any]], dict[str, Any]]
TransformOn = Literal["host", "device"]
WEIGHT = "weight"
_IGNORED_LABEL = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSpec:
    """What a loader gives; see `Accelerator.loader`."""

    batch_size: int | None
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    even_batches: bool = True
    transform: TransformLike | None = None
    transform_on: TransformOn = "host"
    workers: int = 0
    class_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where batches go.

    Attributes:
        part: which contiguous part of every global batch this process loads, or which ones in ascending order.
        parts: how many there are; processes that hold other parts of the same model load the same part of the batch.
        data_size: over how many devices the batch is split.
        alone: whether what this process loads is a batch of its own, which has to weigh something.
        sequence_parts: over how many devices the second dimension of every field that has one is split.
        float_dtype: floating fields are cast to it.
        wide_integers: whether integers wider than 32 bits stay as they are (torch's losses want them) or become int32.
        put: copies this process's part to its devices.
        put_stack: the same of several batches of one shape, (count, B, ...); None where nothing takes them at once.
        put_apart: the same, and gives a dict for each; None where that is no less work than one after the other.
        augment: runs transforms there, on fields, what was drawn for them, and arrays of which fields say the rows.
    """

    part: int | tuple[int, ...]
    parts: int
    data_size: int
    alone: bool = False
    sequence_parts: int = 1
    float_dtype: str
    wide_integers: bool = False
    put: Callable[[Arrays], dict[str, Any]]
    put_stack: Callable[[Arrays], dict[str, Any]] | None = None
    put_apart: Callable[[Arrays], list[dict[str, Any]]] | None = None
    augment: Augment | None = None

    def convert(self, batch: Mapping[str, Any]) -> Arrays:
        """The batch in the types that reach the devices.

        Raises:
            DataError: an integer that does not fit into 32 bits, a field that is no array of numbers, or a sequence
                that the context axis does not divide.
        """
        converted = {name: self._convert(name, np.asarray(values)) for name, values in batch.items()}
        self._require_sequences(converted)
        return converted

    def put_each(self, batches: Arrays) -> list[dict[str, Any]]:
        """Copies batches of one shape, (count, B, ...), to the devices; a dict for each."""
        if self.put_apart is not None:
            return self.put_apart(batches)
        return [self.put(batch) for batch in unstacked(batches)]

    def takes(self, fields: Mapping[str, np.ndarray]) -> bool:
        """Whether `convert` would give any rows of these as they are, and refuse none."""
        kinds = {"f": self.float_dtype, "b": "bool"}
        return self.sequence_parts == 1 and all(
            values.dtype.isnative and (values.dtype.itemsize <= 4 or self.wide_integers)
            if values.dtype.kind in "iu"
            else values.dtype == kinds.get(values.dtype.kind)
            for values in fields.values()
        )

    def check(self, batch: Any) -> Arrays:
        """A host batch given by hand, converted and checked.

        Raises:
            DataError: not a dict of arrays, no examples, or the data axis does not divide it.
        """
        if not isinstance(batch, Mapping) or not batch:
            given = "an empty one" if isinstance(batch, Mapping) else type(batch).__name__
            raise DataError(f"a batch must be a dict of arrays, got {given}.")
        require_weights(batch)
        converted = self.convert(batch)
        self.require_some_weight(converted, "the batch")
        sizes = {name: len(values) if values.ndim else None for name, values in converted.items()}
        size = next(iter(sizes.values()))
        if not size or len(set(sizes.values())) > 1:
            raise DataError(f"all fields of a batch must have the same number of examples (at least 1), got {sizes}.")
        held = np.size(self.part)
        if size % held:
            raise DataError(
                f"the batch must be a multiple of the parts that a process has of it, got {size} examples for {held} "
                f"parts. Use {size // held * held or held}."
            )
        self.require_divisible(size // held * self.parts, "the batch")
        return converted

    def require_divisible(self, size: int, what: str) -> None:
        """Refuses a global batch that the data axis does not divide.

        Raises:
            DataError: names two sizes that would work.
        """
        if size % self.data_size:
            low = size // self.data_size * self.data_size
            choices = f"{low} or {low + self.data_size}" if low else str(self.data_size)
            raise DataError(
                f"{what} must be a multiple of the data axis, got {size} examples on {self.data_size} devices. "
                f"Use {choices}, or let the loader pad with even_batches=True."
            )

    def require_some_weight(self, batch: Arrays, what: str) -> None:
        """Refuses a batch in which no example counts: its loss would be 0 / 0.

        With several parts this process's part may weigh nothing, and only the whole batch could tell.

        Raises:
            DataError: names the batch.
        """
        if (self.alone or self.parts == np.size(self.part)) and WEIGHT in batch:
            require_some_weight(batch[WEIGHT], what)

    def require_real_parts(self, real: int, padded: int | None) -> None:
        """Refuses a last batch of `real` examples and padding of which a process that trains alone would have nothing.

        Raises:
            DataError: says how to leave it out.
        """
        if self.alone and padded and 0 < real <= padded * (self.parts - 1) // self.parts:
            raise DataError(
                f"the last batch must have examples for each of the {self.parts} islands, got {real} before padding to "
                f"{padded}. Use drop_last=True, or another batch_size."
            )

    def require_whole_examples(self, what: str) -> None:
        """Refuses what devices do to whole examples where they have parts of them.

        Raises:
            DataError: says what can be done.
        """
        if self.sequence_parts > 1:
            raise DataError(
                f"{what} must be left to the host where context splits examples, got context={self.sequence_parts}. "
                "Use transform_on='host', and arrays of the host."
            )

    def _require_sequences(self, batch: Arrays) -> None:
        if self.sequence_parts == 1:
            return
        lengths = {name: values.shape[1] for name, values in batch.items() if values.ndim > 1}
        for name, length in lengths.items():
            if length % self.sequence_parts:
                low = max(1, length // self.sequence_parts) * self.sequence_parts
                raise DataError(
                    f"the second dimension of every field must be a multiple of the context axis, got {name} of shape "
                    f"{batch[name].shape} with context={self.sequence_parts}. Use a length of "
                    f"{low} or {low + self.sequence_parts}; shift labels in the data, not in "
                    "the loss function."
                )
        if not lengths:
            raise DataError(
                f"a batch must have a field of shape (B, T, ...) that context={self.sequence_parts} can split, got "
                f"{ {name: values.shape for name, values in batch.items()} }. Use context=1."
            )

    def _convert(self, name: str, values: np.ndarray) -> np.ndarray:
        kind = values.dtype.kind
        if not values.dtype.isnative:  # torch takes no other
            values = values.astype(values.dtype.newbyteorder("="))
        if kind == "f" and values.dtype != self.float_dtype:
            return values.astype(self.float_dtype)
        if kind in "iu" and values.dtype.itemsize > 4 and not self.wide_integers:
            if values.size and (values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min):
                raise DataError(
                    f"field {name!r} must fit into 32 bits, got values from {values.min()} to {values.max()}."
                )
            return values.astype(np.int32)
        if kind not in "fiub":
            raise DataError(
                f"field {name!r} must be numbers, got {values.dtype}. Encode it, or drop the field from the source."
            )
        return values


def require_labels(fields: Mapping[str, np.ndarray], class_counts: Mapping[str, int]) -> None:
    """Refuses labels outside [0, count), other than those that losses ignore.

    Raises:
        DataError: names the first.
    """
    for name, count in class_counts.items():
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


def require_weights(batch: Mapping[str, Any]) -> None:
    """Refuses weights that are not one number per example, which would broadcast into a loss of another size.

    Neither are negative ones weights, nor such as are not finite: sum / weight would be no mean.

    Raises:
        DataError: gives their shape, or the first that is none.
    """
    if WEIGHT not in batch:
        return
    weights = np.asarray(batch[WEIGHT])
    if weights.ndim != 1:
        raise DataError(
            f"{WEIGHT} must have shape (B,), one number per example, got {weights.shape}. "
            "Flatten it, or give the field another name if it is not the weight of examples."
        )
    if weights.dtype.kind in "OSU":
        return  # `Placement.convert` says so
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise DataError(
            f"{WEIGHT} must be finite and at least 0 for every example, got {WEIGHT}={weights[wrong[0]]} at index "
            f"{wrong[0]}. Give the field another name if it is not the weight of examples."
        )


def require_some_weight(weights: np.ndarray, what: str) -> None:
    """Refuses the weights of a global batch when all of them are zero.

    Raises:
        DataError: names the batch.
    """
    if len(weights) and not weights.any():
        raise DataError(
            f"{what} must hold an example whose {WEIGHT} is not 0, got {len(weights)} that all weigh 0: its loss "
            "would be 0 / 0. Drop these examples from the source, or shuffle."
        )
