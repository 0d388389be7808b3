"""What several callbacks watch: one metric of the evaluations, whether it got better, also before a resume."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.errors import ConfigError

logger = logging.getLogger("crosstrain")

Mode = Literal["min", "max"]


@dataclass(kw_only=True, slots=True)
class Monitor:
    """The best value so far of one metric.

    Attributes:
        metric: its name in the evaluation, such as `loss` or `accuracy`.
        mode: whether small (`min`) or large (`max`) is good.
        min_delta: how much better counts as better, >= 0.
        best: the best value.
        best_step: optimizer steps at the best value; None before the first evaluation.

    Raises:
        ConfigError: another mode, or a negative number.
    """

    metric: str = "loss"
    mode: Mode = "min"
    min_delta: float = 0.0
    best: float = field(default=math.nan, init=False)
    best_step: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode must be 'min' or 'max', got mode={self.mode!r}.")
        if not self.min_delta >= 0.0:
            raise ConfigError(f"min_delta must be at least 0, got min_delta={self.min_delta}.")

    def reset(self) -> None:
        """Forgets the best."""
        self.best, self.best_step = math.nan, None

    def is_better(self, record: Record) -> bool:
        """Whether an evaluation is the best so far; remembers it if so. NaN is never better.

        Raises:
            ConfigError: the evaluation has no such metric.
        """
        require_metric(self.metric, record)
        value = record.values[self.metric]
        gain = self.best - value if self.mode == "min" else value - self.best
        better = not math.isnan(value) and (self.best_step is None or gain > self.min_delta)
        if better:
            self.best, self.best_step = value, record.step
        return better


def require_metric(metric: str, record: Record) -> None:
    """Refuses a metric that an evaluation does not have.

    Raises:
        ConfigError: says which it has.
    """
    if metric not in record.values:
        raise ConfigError(
            f"metric must be one that the evaluation reports, got metric={metric!r}. It has {', '.join(record.values)}."
        )


def note_unwatched(name: str, metric: str, run: Run) -> None:
    """Says, after the first epoch, that a run without an `eval_loader` trains as if nothing watched it."""
    if run.epoch == 0 and not run.trainer.history.evaluations and run.is_main_process:
        logger.warning(
            "%s watches %r of the evaluations, and there are none: fit(..., eval_loader=...) evaluates.", name, metric
        )


class Watching(Callback):
    """A callback that watches a metric, and after a resume goes on with what it had seen.

    Args:
        monitor: of the metric.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._waited = 0  # evaluations since the best
        self._run: Run | None = None

    @property
    def state_key(self) -> str:
        """Values of another metric, or another mode, say nothing to this one."""
        return f"{super().state_key}({self.monitor.metric}, {self.monitor.mode})"

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and how long ago that was."""
        return {"best": self.monitor.best, "best_step": self.monitor.best_step, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self.monitor.best, self.monitor.best_step = state["best"], state["best_step"]
        self._waited = state["waited"]

    def on_fit_begin(self, run: Run) -> None:
        """Forgets everything."""
        self.monitor.reset()
        self._waited, self._run = 0, run

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        note_unwatched(type(self).__name__, self.monitor.metric, run)

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        self._run = None
