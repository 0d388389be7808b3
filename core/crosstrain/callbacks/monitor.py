"""What several callbacks watch: one metric of the evaluations, whether it got better, also before a resume."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.errors import ConfigError

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
        if self.metric not in record.values:
            raise ConfigError(
                f"metric must be one that the evaluation reports, got metric={self.metric!r}. "
                f"It has {', '.join(record.values)}."
            )
        value = record.values[self.metric]
        gain = self.best - value if self.mode == "min" else value - self.best
        better = not math.isnan(value) and (self.best_step is None or gain > self.min_delta)
        if better:
            self.best, self.best_step = value, record.step
        return better


class Watching(Callback):
    """A callback that watches a metric, and after a resume goes on with what it had seen.

    Args:
        monitor: of the metric.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._waited = 0  # evaluations since the best
        self._resumed: tuple[Run, Mapping[str, Any]] | None = None

    def _begin(self, run: Run) -> None:
        """Forgets everything, or all but what the run that is resumed had seen."""
        self.monitor.reset()
        self._waited = 0
        resumed, self._resumed = self._resumed, None
        if resumed is None or resumed[0] is not run:
            return
        seen = resumed[1]
        self._waited = seen["waited"]
        if seen["best_step"] is not None:
            self.monitor.best, self.monitor.best_step = float(seen["best"]), seen["best_step"]

    def _kind(self) -> dict[str, str]:
        """Values of another metric, or another mode, say nothing to this one."""
        return {"type": type(self).__name__, "metric": self.monitor.metric, "mode": self.monitor.mode}


def seen_by(callbacks: Iterable[Callback]) -> list[dict[str, Any]]:
    """What those among the callbacks that watch a metric have seen so far, as JSON, which has no infinity."""
    watching = [each for each in callbacks if isinstance(each, Watching)]
    return [
        {
            **each._kind(),
            "best": None if each.monitor.best_step is None else str(each.monitor.best),
            "best_step": each.monitor.best_step,
            "waited": each._waited,
        }
        for each in watching
    ]


def go_on_with(run: Run, callbacks: Iterable[Callback], seen: Sequence[Mapping[str, Any]]) -> None:
    """Gives each callback what one of its kind had seen, in order; they take it when the run begins."""
    left = list(seen)
    for each in callbacks:
        if isinstance(each, Watching):
            found = next((one for one in left if each._kind().items() <= one.items()), None)
            if found is not None:
                left.remove(found)
                each._resumed = run, found
