"""`CheckpointSpec`: when a training loop saves and what it keeps; `Saver`: the callback that does it."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstrain.callbacks import Callback, Record, Run
from crosstrain.callbacks.monitor import note_unwatched, require_metric
from crosstrain.callbacks.states import State, load_states, states_of
from crosstrain.checkpoint.manifest import Manifest
from crosstrain.checkpoint.rules import Best, require_rules
from crosstrain.checkpoint.series import Checkpoints
from crosstrain.errors import ConfigError, CrosstrainError, is_positive, require_count
from crosstrain.metrics import Metrics

if TYPE_CHECKING:
    from crosstrain.accelerator import Accelerator
    from crosstrain.data.phases import Batches

# Processes agree on saving through a collective; every step would be too often for a cluster.
_AGREE_EVERY = 10
logger = logging.getLogger("crosstrain")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSpec:
    """When `Trainer.fit` saves, and what stays.

    Attributes:
        root: directory of the run; every process must see the same one.
        every_steps: save after optimizer steps that are multiples of it.
        every_s: save when so many seconds have passed since the last time.
        every_epoch: save at the end of every epoch, after its evaluation.
        keep_last: how many of the newest stay.
        keep_every: steps that are multiples of it stay, too.
        keep_best: the best by a metric of the evaluation stay, too. Every evaluation is then followed by a save. `fit`
            refuses a metric that the evaluation does not report.
        signals: names of signals at which the run saves and ends, such as those that Slurm sends before it requeues.
        on_exception: save when training ends by an exception; with one process.

    Raises:
        ConfigError: a number out of range, or no such signal.
    """

    root: Path | str
    every_steps: int | None = None
    every_s: float | None = None
    every_epoch: bool = True
    keep_last: int = 3
    keep_every: int | None = None
    keep_best: Best | None = None
    signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1")
    on_exception: bool = True

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            require_count("every_steps", self.every_steps)
        require_rules(self.keep_last, self.keep_every, self.keep_best)
        if self.every_s is not None and not is_positive(self.every_s):
            raise ConfigError(f"every_s must be above 0 or None, got every_s={self.every_s!r}.")
        heard = set(signal.Signals.__members__) - {"SIGKILL", "SIGSTOP"}
        if not isinstance(self.signals, Iterable) or not set(self.signals) <= heard:
            raise ConfigError(
                f"signals must be names such as 'SIGTERM', of signals that a process hears of, got "
                f"signals={self.signals}."
            )


class Saver(Callback):
    """Saves by a `CheckpointSpec`, in the background; at a signal it saves and ends the run.

    Args:
        accelerator: of the run.
        loader: the training batches.
        spec: when to save.
        callbacks: those before this one; their states are saved, too.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        loader: "Batches",
        spec: CheckpointSpec,
        callbacks: tuple[Callback, ...] = (),
    ) -> None:
        self.checkpoints = Checkpoints(
            accelerator, spec.root, keep_last=spec.keep_last, keep_every=spec.keep_every, keep_best=spec.keep_best
        )
        self._accelerator, self._loader, self._spec = accelerator, loader, spec
        self._callbacks = callbacks
        # While there is an evaluation, as they were before: it is repeated after a resume, and must not count twice.
        self._states: list[State] | None = None
        self._resumed: list[State] = []
        self._position: dict[str, Any] = {}
        self._position_step = 0
        self.ended_at: int | None = None
        """Steps of the state when an epoch last came to its end, with evaluation and callbacks; None when unknown."""
        self._saved_at, self._saved_step = time.monotonic(), -1
        self._signalled: str | None = None
        self._metrics: dict[str, float] = {}
        self._together = True
        self._restore_handlers: Callable[[], None] = _nothing

    def resume(self, run: Run) -> Manifest | None:
        """Loads the newest whole checkpoint into the run's state and loader, and sets where the run stands.

        Raises:
            CheckpointError: see `Checkpoints.restore`.
        """
        manifest = self.checkpoints.restore(run.state, loader=self._loader)
        if manifest is None:
            return None
        run.step, run.epoch = manifest.progress.get("step", 0), manifest.progress.get("epoch", 0)
        self.ended_at = manifest.step if manifest.progress.get("ended", 0) else None
        self._resumed = manifest.progress.get("callbacks", [])
        if self._accelerator.is_main_process:
            logger.info("resumed at optimizer step %d from %s", manifest.step, self.checkpoints.root)
            if self._loader.resume_note is not None:
                logger.warning("resuming the data: %s", self._loader.resume_note)
        return manifest

    def on_fit_begin(self, run: Run) -> None:
        """Makes ready to save, and listens to the signals. Being last, it gives the others their states back."""
        load_states(self._callbacks, self._resumed)
        states_of(self._callbacks)  # what cannot be saved is said before anything is trained
        self._take_position(run)
        self.checkpoints.prepare(run.state)
        if self._spec.signals and threading.current_thread() is threading.main_thread():
            self._restore_handlers = _listen(self._spec.signals, self._note)

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """Saves when it is time; ends the run when a signal came."""
        self._take_position(run)
        due, stop = self._agreed(run)
        if due or stop or (self._spec.every_steps is not None and run.passes(self._spec.every_steps)):
            self.save(run)
        if stop:
            self.checkpoints.wait()
            run.stop(stop, at_once=True)

    def on_evaluate_begin(self, run: Run) -> None:
        """Keeps the states of callbacks that have not seen the evaluation."""
        self._states = states_of(self._callbacks)

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """Keeps what `keep_best` compares.

        Raises:
            ConfigError: a metric that the evaluation does not report.
        """
        if self._spec.keep_best is not None:
            require_metric(self._spec.keep_best.metric, record)
        self._metrics = dict(record.values)

    def on_epoch_end(self, run: Run) -> None:
        """Saves, with the metrics of this epoch's evaluation; a save after its last step learns that it has ended."""
        self.ended_at, self._states = run.state.step, None
        if self._spec.keep_best is not None:
            note_unwatched("keep_best", self._spec.keep_best.metric, run)
        compared = self._spec.keep_best is not None and self._metrics
        if self._spec.every_epoch or compared or self._saved_step == run.state.step:
            self._take_position(run)
            # A loop that stopped by itself after the last batch stands at the end of this epoch, not before the next.
            over = self._position["batch"] == 0
            self.save(run, epoch=run.epoch + over)
        self._metrics = {}  # a later state was not evaluated

    def on_exception(self, run: Run, error: BaseException) -> None:
        """Saves the state after the last whole step, as far as that is there."""
        self._together = False
        # Where a callback before this one raised in `on_fit_begin`, nothing was trained, and no position is known.
        if not self._position:
            return
        if not self._spec.on_exception or self._accelerator.process_count > 1 or isinstance(error, CrosstrainError):
            return
        if run.taken.start < run.state.step < run.taken.stop:
            logger.warning(
                "could not save at the exception: it came after step %d of a call that goes to step %d, and the loader "
                "is at the end of the call. The run resumes from its last checkpoint.",
                *(run.state.step, run.taken.stop),
            )
            return
        try:
            # A step that raised has its batch already, and the loader is ahead of the state. One that was taken, before
            # another callback raised, is not.
            if run.state.step > self._position_step:
                self._take_position(run)
            self.save(run)
            self.checkpoints.wait()
        except Exception as second:
            logger.warning("could not save at the exception: %s", second)

    def on_fit_end(self, run: Run) -> None:
        """Waits for the last save; after an exception not for other processes, which may be in their next step."""
        self._restore_handlers()
        self._restore_handlers = _nothing
        self.checkpoints.close(together=self._together)

    def save(self, run: Run, epoch: int | None = None) -> None:
        """Saves now; `epoch` is the one to go on with, by default the current one."""
        self._saved_at = time.monotonic()
        self._saved_step = run.state.step
        progress = {
            "step": run.step,
            "epoch": run.epoch if epoch is None else epoch,
            "ended": int(self.ended_at == run.state.step),
            "callbacks": states_of(self._callbacks) if self._states is None else self._states,
        }
        self.checkpoints.save(run.state, loader=_At(self._position), metrics=self._metrics, progress=progress)
        self._metrics = {}

    def _take_position(self, run: Run) -> None:
        self._position, self._position_step = self._loader.state_dict(), run.state.step

    def _note(self, name: str) -> None:
        self._signalled = name

    def _agreed(self, run: Run) -> tuple[bool, str | None]:
        """Whether it is time to save, and the signal that ends the run; the same on every process."""
        late = self._spec.every_s is not None and time.monotonic() - self._saved_at >= self._spec.every_s
        signals = ("", *self._spec.signals)
        if self._accelerator.process_count == 1:
            return late, self._signalled
        if not run.passes(_AGREE_EVERY):
            return False, None
        own = np.array([late, signals.index(self._signalled or "")])
        late, found = self._accelerator.reduce(own, "max").tolist()
        return bool(late), signals[found] or None


@dataclass(frozen=True, slots=True)
class _At:
    """A position that was written down."""

    position: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


def _nothing() -> None:
    return


def _listen(names: tuple[str, ...], note: Callable[[str], None]) -> Callable[[], None]:
    """Calls `note` with the name of each signal that comes; returns what puts the old handlers back."""
    numbers = {getattr(signal, name): name for name in names}
    old = {number: signal.signal(number, lambda got, _: note(numbers[got])) for number in numbers}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    return restore
