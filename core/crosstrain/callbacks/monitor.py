"""What several callbacks watch: one metric of the evaluations, and whether it got better."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from crosstrain.callbacks.base import Record
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
