"""`Processes`: which process this is, what only one of them does, and who waits for whom. The same on both engines."""

import builtins
import contextlib
import functools
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, TypeVar

import numpy as np

from crosstrain.collectives import Collectives
from crosstrain.errors import ConfigError, DataError
from crosstrain.exchange import Call
from crosstrain.folding import local_positions

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Processes(Collectives):
    """The processes of a run.

    Attributes:
        process_index: this process, 0-based.
        process_count: how many there are.
        local_process_index: this process among those of its machine.
    """

    local_process_index: int
    _triggered = False

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.process_index == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this process is the first one of its machine."""
        return self.local_process_index == 0

    @property
    def is_last_process(self) -> bool:
        """Whether this process has the highest index."""
        return self.process_index == self.process_count - 1

    def wait_for_everyone(self) -> None:
        """Returns once every process has called it.

        Raises:
            CollectiveError: a process makes another call.
        """
        self._agree(Call("wait_for_everyone"))

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the block first, then all others: it downloads or caches what they read."""
        with self._first(self.is_main_process, "main_process_first"):
            yield

    @contextlib.contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """On every machine its first process runs the block first, then the others."""
        with self._first(self.is_local_main_process, "local_main_process_first"):
            yield

    def on_main_process(self, function: _Function) -> _Function:
        """The function, called on the main process only; the others return None at once. Also a decorator."""
        return self._only(self.is_main_process, function)

    def on_local_main_process(self, function: _Function) -> _Function:
        """As `on_main_process`, on the first process of every machine."""
        return self._only(self.is_local_main_process, function)

    def on_last_process(self, function: _Function) -> _Function:
        """As `on_main_process`, on the last process."""
        return self._only(self.is_last_process, function)

    def on_process(self, function: _Function | None = None, index: int = 0) -> Any:
        """As `on_main_process`, on process `index`; as a decorator `@accelerator.on_process(index=1)`.

        Raises:
            ConfigError: no such process.
        """
        self._require_process("index", index)
        here = self.process_index == index
        return functools.partial(self._only, here) if function is None else self._only(here, function)

    def print(
        self, *values: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None, flush: bool = False
    ) -> None:
        """Python's `print`, on the main process only."""
        if self.is_main_process:
            builtins.print(*values, sep=sep, end=end, file=file or sys.stdout, flush=flush)

    @contextlib.contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Iterator[Any]:
        """This process's part of inputs that every process has, such as prompts for generation. Exchanges nothing.

        Args:
            inputs: a list, a tuple, an array, or a dict of these with one length. Parts are consecutive; where the
                processes do not divide the length, the first ones get one more.
            apply_padding: repeat the last element, so that all parts have one length and `gather` can follow.

        Yields:
            The part, in the type of `inputs`.

        Raises:
            DataError: fields of different lengths, or something that has no elements.
        """
        fields = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
        lengths = {name: self._length(name, values) for name, values in fields.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"inputs must all have the same length, got {lengths}.")
        count = next(iter(lengths.values()), 0)
        positions = local_positions(count, self.process_index, self.process_count, apply_padding)
        parts = {name: _take(values, positions) for name, values in fields.items()}
        yield parts if isinstance(inputs, Mapping) else parts["inputs"]

    def set_trigger(self) -> None:
        """Sets a flag that every process sees at its next `check_trigger`, for example to stop together."""
        self._triggered = True

    def check_trigger(self) -> bool:
        """Whether any process has set the flag since the last check; takes it back. Called by all processes.

        Raises:
            CollectiveError: a process makes another call.
        """
        any_set = any(self._objects(Call("check_trigger"), self._triggered))
        self._triggered = False
        return any_set

    def _meet(self, settings: Mapping[str, Any]) -> None:
        """Counts the processes of this machine, and refuses runs whose processes were set up differently.

        Raises:
            ConfigError: names the setting, and who has which value.
        """
        found = self._objects(Call("Accelerator"), (platform.node(), {name: f"{v}" for name, v in settings.items()}))
        self.local_process_index = local_index([machine for machine, _ in found], self.process_index)
        for name in settings:
            values = [given[name] for _, given in found]
            if len(set(values)) > 1:
                said = ", ".join(f"{name}={value} on process {index}" for index, value in enumerate(values))
                raise ConfigError(f"{name} must be the same on every process, got {said}.")

    def _share_parts(self, parts: tuple[int, ...], count: int) -> None:
        """Tells the others which parts of a batch, of how many, this process loads.

        Raises:
            ConfigError: processes that load some of the same parts, but not all.
        """
        loaded = self._objects(Call("Accelerator"), parts)
        distinct = sorted(set(loaded))
        if sum(map(len, distinct)) != count:
            raise ConfigError(
                f"processes must load the same parts of a batch or wholly other ones, got {loaded} of {count}. "
                "Use sizes of the mesh that the devices of a process divide or multiply."
            )
        self._part_owners = [loaded.index(each) for each in distinct]
        self._part_order = np.argsort(np.concatenate(distinct))

    @contextlib.contextmanager
    def _first(self, first: bool, operation: str) -> Iterator[None]:
        if not first:
            self._agree(Call(operation))
        try:
            yield
        finally:
            # Also after an exception, so that the others are not left waiting.
            if first:
                self._agree(Call(operation))

    @staticmethod
    def _only(here: bool, function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named) if here else None

        return call  # type: ignore[return-value]

    def _length(self, name: str, values: Any) -> int:
        if self._reach(values) == "sharded":
            raise DataError(f"{name} must be whole on every process, got an array that is split over them already.")
        # Elements of a list may be of any kind, such as prompts of different lengths.
        if not isinstance(values, list | tuple) and not getattr(values, "shape", ()):
            raise DataError(
                f"{name} must be a list, a tuple, an array or a dict of these, got {type(values).__name__}."
            )
        return len(values)


def local_index(machines: list[str], index: int) -> int:
    """How many processes before `index` run on the same machine."""
    return machines[:index].count(machines[index])


def _take(values: Any, positions: np.ndarray) -> Any:
    """Elements of a list or tuple in its type, or rows of an array."""
    if isinstance(values, list | tuple):
        taken = [values[position] for position in positions]
        return taken if isinstance(values, list) else tuple(taken)
    return values[positions]
