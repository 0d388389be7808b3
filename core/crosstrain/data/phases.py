"""Progressive resizing: images grow from phase to phase, and batches shrink, so that a step costs about the same."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from crosstrain.data.loader import Loader
from crosstrain.errors import ConfigError, DataError, require_count


class Batches(Protocol):
    """What `Trainer.fit` trains on: a `Loader`, or a `PhasedLoader`. See `Loader` for the members."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    def epoch(self) -> int: ...  # noqa: D102

    @property
    def resume_note(self) -> str | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def stacks(self, count: int, limit: int | None = None) -> Iterator[Sequence[dict[str, Any]]]: ...  # noqa: D102

    def steps(self, epochs: int, first: int | None = None) -> int: ...  # noqa: D102

    def aside(self) -> contextlib.AbstractContextManager[None]: ...  # noqa: D102

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def load_state_dict(self, state: dict[str, Any]) -> None: ...  # noqa: D102


def require_batches(name: str, loader: object) -> None:
    """Refuses what is no loader of crosstrain's, such as the source itself or a torch DataLoader.

    Raises:
        ConfigError: says how to make one.
    """
    if not hasattr(loader, "aside"):
        raise ConfigError(
            f"{name} must be one that accelerator.loader made, got {type(loader).__name__}. Pass "
            f"{name}=accelerator.loader(source, batch_size=...): a source is a dict of arrays, a list of examples, "
            "a torch DataLoader, ..."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Some epochs at one size.

    Attributes:
        epochs: how many.
        size: side of the images, in pixels.

    Raises:
        DataError: a number below 1.
    """

    epochs: int
    size: int

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs, DataError)
        require_count("size", self.size, DataError)


def batch_size_for(size: int, batch_size: int, full_size: int, multiple: int = 1) -> int:
    """batch_size (full_size / size)^2, rounded down to a multiple, at least one: as many pixels as a full-size batch.

    Args:
        size: side of the images, in pixels.
        batch_size: at `full_size`.
        full_size: side of the largest images.
        multiple: what the data axis divides.
    """
    return max(int(batch_size * (full_size / size) ** 2) // multiple, 1) * multiple


class PhasedLoader:
    """One loader after the other, each for its epochs; the last goes on. `Trainer.fit` and plans take it as a `Loader`.

    The order of an epoch is what its loader gives for that epoch of the whole run. Every full batch of a phase has one
    shape, so there is at most one compilation for each size.

    Args:
        phases: (epochs, loader), in order.

    Raises:
        DataError: no phase, or less than one epoch.
    """

    def __init__(self, phases: Sequence[tuple[int, Loader]]) -> None:
        if not phases:
            raise DataError("phases must be at least one (epochs, loader), got none.")
        for epochs, _ in phases:
            require_count("epochs", epochs, DataError)
        self._phases = tuple(phases)
        self._current = phases[0][1]

    @property
    def batch_size(self) -> int:
        """Real examples in a full global batch of the phase that was begun last."""
        return self._current.batch_size

    @property
    def epoch(self) -> int:
        """The epoch (0-based) that the next iteration gives."""
        return self._current.epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of `epoch`, from its beginning."""
        self._current = self.loader_of(epoch)
        self._current.set_epoch(epoch)

    def loader_of(self, epoch: int) -> Loader:
        """The loader that gives an epoch (0-based)."""
        for epochs, loader in self._phases:
            if epoch < epochs:
                return loader
            epoch -= epochs
        return self._phases[-1][1]

    def __len__(self) -> int:
        return len(self.loader_of(self.epoch))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._begin())

    def stacks(self, count: int, limit: int | None = None) -> Iterator[Sequence[dict[str, Any]]]:
        """See `Loader.stacks`."""
        return self._begin().stacks(count, limit)

    def _begin(self) -> Loader:
        """The loader of the next epoch, which becomes the current one."""
        if self.loader_of(self.epoch) is not self._current:
            self.set_epoch(self.epoch)
        return self._current

    def steps(self, epochs: int, first: int | None = None) -> int:
        """Batches of so many epochs: those from epoch `first` (0-based), by default the next ones."""
        first = self.epoch if first is None else first
        return sum(len(self.loader_of(first + index)) for index in range(epochs))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """See `Loader.aside`."""
        current = self._current
        with contextlib.ExitStack() as stack:
            for _, loader in self._phases:
                stack.enter_context(loader.aside())
            try:
                yield
            finally:
                self._current = current

    def state_dict(self) -> dict[str, Any]:
        """See `Loader.state_dict`; says which loader it is of by the epoch."""
        state = self._current.state_dict()
        if self.loader_of(state["epoch"]) is self._current:
            return state
        following = self.loader_of(state["epoch"])
        following.set_epoch(state["epoch"])
        return following.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Loader.load_state_dict`.

        Raises:
            DataError: no such state, or one of other loaders.
        """
        epoch = state.get("epoch") if isinstance(state, dict) else None
        if type(epoch) is not int or epoch < 0:
            raise DataError(f"the state of a loader must be a dict with an epoch of at least 0, got epoch={epoch!r}.")
        self._current = self.loader_of(epoch)
        self._current.load_state_dict(state)

    @property
    def resume_note(self) -> str | None:
        """What is not exact when it resumes; None when the same batches follow for sure."""
        return next((note for _, loader in self._phases if (note := loader.resume_note) is not None), None)


def progressive(
    make: Callable[[int, int], Loader], phases: Sequence[Phase], *, batch_size: int, multiple: int = 1
) -> PhasedLoader:
    """A loader for images that grow from phase to phase.

    Args:
        make: (size, batch size) -> loader, for example `lambda size, batch: accelerator.loader(source,
            batch_size=batch, shuffle=True, transform=ct.data.resize(size))`.
        phases: sizes and epochs, in order.
        batch_size: at the largest size; at others as `batch_size_for` says.
        multiple: that batch sizes are rounded down to; the number of devices.

    Raises:
        DataError: no phase, or a number below 1.
    """
    require_count("batch_size", batch_size, DataError)
    require_count("multiple", multiple, DataError)
    if not phases:
        raise DataError("phases must be at least one Phase(epochs=..., size=...), got none.")
    full = max(phase.size for phase in phases)
    return PhasedLoader(
        [(phase.epochs, make(phase.size, batch_size_for(phase.size, batch_size, full, multiple))) for phase in phases]
    )
