"""Callbacks that end a run: no progress, no time, no finite loss."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.callbacks.monitor import Mode, Monitor, Watching
from crosstrain.errors import ConfigError, require_count


class EarlyStopping(Watching):
    """Ends the run when the evaluation has not got better for some time; needs an `eval_loader`.

    A resumed run goes on counting, and one that was ended so stays ended; more `patience` lets it go on.

    Args:
        metric: name in the evaluation.
        patience: evaluations without progress before the end, at least 1.
        mode: whether small or large is good.
        min_delta: how much better counts as better.

    Raises:
        ConfigError: a number out of range, and in `fit` a metric that the evaluation does not report.
    """

    def __init__(self, metric: str = "loss", *, patience: int = 1, mode: Mode = "min", min_delta: float = 0.0) -> None:
        require_count("patience", patience)
        super().__init__(Monitor(metric=metric, mode=mode, min_delta=min_delta))
        self._patience = patience

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        super().load_state_dict(state)
        if self._run is not None:
            self._stop_when_due(self._run)

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        self._waited = 0 if self.monitor.is_better(record) else self._waited + 1
        self._stop_when_due(run)

    def _stop_when_due(self, run: Run) -> None:
        if self._waited >= self._patience:
            run.stop(f"{self.monitor.metric} has not improved for {self._waited} evaluations")


class TimeBudget(Callback):
    """Ends the run, with a last evaluation, when its time is up; looked at whenever metrics are logged.

    With several processes the slowest clock decides for all.

    Args:
        seconds: from the beginning of `fit`.
        clock: seconds.

    Raises:
        ConfigError: no time at all.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        if not seconds > 0.0:
            raise ConfigError(f"seconds must be above 0, got seconds={seconds}.")
        self._seconds, self._clock = seconds, clock

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._started = self._clock()

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        spent = self._clock() - self._started
        accelerator = run.trainer.accelerator
        if accelerator.process_count > 1:
            spent = float(accelerator.reduce(np.array(spent), "max"))
        if spent >= self._seconds:
            run.stop(f"the time budget of {self._seconds:g} s is spent")


class NanGuard(Callback):
    """Ends the run at a logged training loss that is not finite, without an evaluation.

    Costs nothing, but sees only what is logged; `Accelerator(nan_policy="raise")` looks at every step, and raises. On
    islands the loss of any of them ends the run on all.
    """

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        accelerator = run.trainer.accelerator
        losses = [record.values["loss"]]
        if accelerator.islands:  # one that ended alone would meet the others' next outer step with its last one
            losses = accelerator.gather(losses[0]).tolist()
        broken = [loss for loss in losses if not math.isfinite(loss)]
        if broken:
            run.stop(f"loss={broken[0]} at optimizer step {record.step}", at_once=True)
