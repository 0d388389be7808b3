"""Iterable sources: cut into windows of one global batch, and found again in the middle of an epoch.

Every process reads the whole stream and keeps its part of each window. So the parts are even and in one order however
many processes there are, and a stream with fewer examples than processes works too.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from crosstrain.data.position import Position
from crosstrain.errors import DataError

END = "end of the epoch"
"""The state of a source that has no more to give: what it says there itself may be that of its beginning."""


def has_state(source: Any) -> bool:
    """Whether an object says where it stands and can go on there."""
    return all(callable(getattr(source, name, None)) for name in ("state_dict", "load_state_dict"))


@dataclass(frozen=True, slots=True)
class Window:
    """The examples of one global batch.

    Attributes:
        examples: in order; fewer than a batch only at the end of the epoch.
        first: place of the first in the epoch.
        state: of the source after the last, where it has a `state_dict`; `END` where it is known to be over.
    """

    examples: list[Any]
    first: int
    state: Any


class Stream:
    """An iterable that can start again for every epoch."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._source: Any = source
        self._started = self._moved = False
        self._has_state = has_state(source)
        self._initial = self._state()

    @property
    def resume_note(self) -> str:
        """What is not exact after a resume."""
        if self._has_state:
            return (
                "The iterable's own state_dict decides what follows: a stream that shuffles through a buffer, as those "
                "of HF datasets do, loses what the buffer held."
            )
        return (
            "The iterable has no state_dict: the examples before the position are read over, which takes time, and "
            "the same ones follow only if it gives them in the same order again."
        )

    def pool(self, position: Position, size: int) -> list[Any]:
        """The first `size` examples of the epoch, which pad its last batch, read anew when it is resumed."""
        self._rewind(position.epoch)
        return list(islice(iter(self._source), size))

    def windows(self, position: Position, batch_size: int) -> Iterator[Window]:
        """The batches from a position on, after reading over what comes before it where the source has no state."""
        if self._started and iter(self._source) is self._source and not position.batch:
            raise DataError(
                "source must start again for every epoch, got an iterator that is used up. "
                "Pass an object whose __iter__ begins anew, not a generator."
            )
        self._started = True
        self._rewind(position.epoch)
        # One that is left in the middle stands there, and the next iteration is to begin at its beginning.
        self._moved = self._has_state
        resumed = self._has_state and position.batch > 0
        if resumed and position.stream == END:
            return
        if resumed:
            self._source.load_state_dict(copy.deepcopy(position.stream))
        examples = iter(self._source)
        first = position.batch * batch_size
        if not self._has_state:
            for _ in islice(examples, first):
                pass
        while window := list(islice(examples, batch_size)):
            yield Window(window, first, END if self._has_state and len(window) < batch_size else self._state())
            first += len(window)
        self._moved = resumed

    def _rewind(self, epoch: int) -> None:
        if callable(getattr(self._source, "set_epoch", None)):
            self._source.set_epoch(epoch)
        if self._moved:
            self._source.load_state_dict(copy.deepcopy(self._initial))
            self._moved = False

    def _state(self) -> Any:
        return copy.deepcopy(self._source.state_dict()) if self._has_state else None
