"""`Callback`: what may happen around the training loop. One class, no-op events; a callback works on both engines."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crosstrain.errors import ConfigError
from crosstrain.metrics import Metrics
from crosstrain.state import TrainState

if TYPE_CHECKING:
    from crosstrain.checkpoint import CheckpointSpec
    from crosstrain.trainer import Trainer


@dataclass(slots=True)
class Run:
    """Where a call of `Trainer.fit` stands. Callbacks read it, and may call `stop`.

    Attributes:
        trainer: whose `fit` it is: its accelerator, loss function and history.
        state: the state in training.
        is_main_process: whether this process prints and writes.
        batch_size: real examples in a full global batch of this epoch.
        epochs: how many this call trains for; None when it counts steps.
        total_steps: optimizer steps of this call; None when not known.
        epoch: the current one, 0-based, of this call.
        step: optimizer steps finished in this call.
        taken: the optimizer steps of the current call of the compiled step, each by the number of steps that the state
            had taken before it; one of them, or `steps_per_call`.
        stop_reason: why training ends early, or None.
        stops_at_once: whether it ends without an evaluation.
        checkpoints: when `fit` saves, and where to; None when it does not.
        started: `time.perf_counter()` at the start, in seconds.
    """

    trainer: "Trainer"
    state: TrainState
    is_main_process: bool
    batch_size: int
    epochs: int | None
    total_steps: int | None
    epoch: int = 0
    step: int = 0
    taken: range = range(0)
    stop_reason: str | None = None
    stops_at_once: bool = False
    checkpoints: "CheckpointSpec | None" = None
    started: float = field(default_factory=time.perf_counter)

    def passes(self, every: int) -> bool:
        """Whether the state's step count comes to a multiple of `every` in the current call of the compiled step."""
        return any((step + 1) % every == 0 for step in self.taken)

    def stop(self, reason: str, *, at_once: bool = False) -> None:
        """Ends training after the current step, with a last evaluation unless `at_once`; the first reason stays.

        Every process must come to the same decision.
        """
        self.stop_reason = self.stop_reason or reason
        self.stops_at_once = self.stops_at_once or at_once


@dataclass(frozen=True, slots=True)
class Record:
    """Values that were read from the device at one step.

    Attributes:
        step: optimizer steps that the state had taken, over all calls of `fit`.
        epoch: 0-based, of this call.
        values: name -> value. Of training: `loss`, `learning_rate`, what `loss_fn` reported, and `examples_per_second`.
    """

    step: int
    epoch: int
    values: dict[str, float]


class Speed:
    """Examples per second between reads of the metrics, each made when the device has just finished a step.

    Args:
        step: optimizer steps that the state had taken at the start.
        batch_size: real examples in a full global batch.
        clock: seconds.
    """

    def __init__(self, step: int, batch_size: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._step, self.batch_size, self._clock = step, batch_size, clock
        self._then = clock()
        self._before, self._sent = (step, self._then), step

    def lap(self, step: int, sent: int) -> float:
        """The speed since the last lap, now that `step` steps are done; the first one includes compilation.

        Where nothing was sent to the device since, it may have been done at the last lap already, and no time has
        passed: the speed is that since the lap before.

        Args:
            step: optimizer steps whose metrics were read.
            sent: optimizer steps that were sent to the device.
        """
        now = self._clock()
        if sent != self._sent:
            self._before, self._sent = (self._step, self._then), sent
        begun, then = self._before
        self._step, self._then = step, now
        return (step - begun) * self.batch_size / max(now - then, 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of an evaluation out."""
        before = self._clock()
        yield
        away = self._clock() - before
        self._then += away
        self._before = self._before[0], self._before[1] + away


EVENTS = (
    "on_fit_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_step_end",
    "on_log",
    "on_evaluate_begin",
    "on_evaluate_end",
    "on_epoch_end",
    "on_exception",
    "on_fit_end",
)
"""Every event, in the order in which a `fit` first comes to it."""


class Callback:
    """Base class; override what you need. Events of one `fit`, in order:

    `on_fit_begin`, then per epoch `on_epoch_begin`, per step `on_step_begin`, `on_step_end` and at logging time
    `on_log` (one step late), `on_evaluate_begin` and `on_evaluate_end` where there is an evaluation loader,
    `on_epoch_end`; `on_exception` when anything raised; `on_fit_end` always, last. Of several callbacks each has an
    event in the order in which they were given. What one raises ends the run; the last two events still reach all
    others, and the first error is the one that `fit` raises, with those that came after it as its notes.

    With `steps_per_call` the events of a step come once for each call: `on_step_begin` with its first batch,
    `on_step_end` with its last metrics, and `run.taken` says which steps.

    What a callback must not forget when a run is resumed goes into checkpoints by `state_dict` and `load_state_dict`.

    Raises:
        ConfigError: a subclass defines an event that does not exist, when the class is made.
    """

    def __init_subclass__(cls) -> None:
        """Refuses an event that is spelled wrongly, which would never be called."""
        unknown = [name for name in vars(cls) if name.startswith("on_") and name not in EVENTS]
        if unknown:
            raise ConfigError(f"events must be among {', '.join(EVENTS)}, got {', '.join(unknown)} in {cls.__name__}.")

    @property
    def state_key(self) -> str:
        """Whose state `state_dict` gives: a resumed run gives it back to the callback with the same key.

        By default the name of the class; of several callbacks with one key, the first has the first state.
        """
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: what JSON can hold, NaN and infinities too. Empty: nothing.

        A save asks for it after `on_step_end` or `on_epoch_end` of every callback, on every process; that of the first
        process is kept. During an evaluation, which a resumed run repeats, it is that of before.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In a resumed run, after `on_fit_begin` of every callback, where the checkpoint has a state of this one."""

    def on_fit_begin(self, run: Run) -> None:
        """Before the first batch, after a resume."""

    def on_epoch_begin(self, run: Run) -> None:
        """Before the first batch of an epoch."""

    def on_step_begin(self, run: Run, batch: dict[str, Any]) -> None:
        """Before a step; `batch` holds device arrays of shape (B, ...)."""

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """After a step was sent to the device. Reading `metrics` waits for it."""

    def on_log(self, run: Run, record: Record) -> None:
        """Every `log_every` steps, with values on the host; one step later, so that the device never waits."""

    def on_evaluate_begin(self, run: Run) -> None:
        """Before an evaluation, after the last `on_log` of its epoch."""

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """After an evaluation, with exact averages over all its examples."""

    def on_epoch_end(self, run: Run) -> None:
        """After the evaluation of an epoch."""

    def on_exception(self, run: Run, error: BaseException) -> None:
        """When training ends by an exception, which is raised again afterwards; also one of `on_fit_begin`."""

    def on_fit_end(self, run: Run) -> None:
        """Last, also after an exception."""


def listeners(callbacks: tuple[Callback, ...], event: str) -> list[Callable[..., None]]:
    """The methods of an event that do something, in order."""
    methods = (getattr(callback, event) for callback in callbacks)
    return [method for method in methods if getattr(method, "__func__", None) is not getattr(Callback, event)]
