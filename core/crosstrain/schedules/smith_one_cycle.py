"""The one-cycle policy as Smith wrote it: straight lines, and a last part far below the first rate."""

from dataclasses import dataclass

import numpy as np

from crosstrain.schedules.base import (
    Schedule,
    require_divisor,
    require_momentum,
    require_pct_start,
    require_rate,
    require_steps,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmithOneCycle(Schedule):
    """Straight lines from peak/div to peak, back to peak/div, and down to peak/(div final_div).

    The turning points are at the shares 0, cycle/2, cycle and 1 of the way p = i / (total_steps - 1), at most 1.
    Source: Smith 2018 ("A disciplined approach to neural network hyper-parameters", section 4): one cycle a little
    shorter than the run, and the rate several orders of magnitude below the first one in what remains.
    """

    peak: float
    total_steps: int
    cycle: float
    div: float
    final_div: float

    def __post_init__(self) -> None:
        require_rate("learning rate", self.peak)
        _require_shape(self.total_steps, self.cycle)
        require_divisor("div", self.div)
        require_divisor("final_div", self.final_div)

    def rate(self, step: int) -> float:
        """See the class."""
        low = self.peak / self.div
        return _lines(step, self.total_steps, self.cycle, (low, self.peak, low, low / self.final_div))


@dataclass(frozen=True, kw_only=True, slots=True)
class SmithOneCycleMomentum(Schedule):
    """Straight lines from high to low and back over `SmithOneCycle`'s cycle, then high (Smith 2018, section 4.3)."""

    high: float
    low: float
    total_steps: int
    cycle: float

    def __post_init__(self) -> None:
        require_momentum("high", self.high)
        require_momentum("low", self.low)
        _require_shape(self.total_steps, self.cycle)

    def rate(self, step: int) -> float:
        """See the class."""
        return _lines(step, self.total_steps, self.cycle, (self.high, self.low, self.high, self.high))


def _require_shape(total_steps: int, cycle: float) -> None:
    require_steps("total_steps", total_steps, minimum=2)
    require_pct_start(cycle)


def _lines(step: int, total_steps: int, cycle: float, levels: tuple[float, ...]) -> float:
    return float(np.interp(step / (total_steps - 1), (0.0, cycle / 2.0, cycle, 1.0), levels))


def smith_one_cycle(
    learning_rate: float, total_steps: int, *, cycle: float = 0.9, div: float = 10.0, final_div: float = 100.0
) -> Schedule:
    """Smith's one-cycle policy; see `SmithOneCycle` for the formula.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run.
        cycle: share of the run that goes up and down again.
        div: peak / first rate.
        final_div: first rate / last rate.

    Raises:
        ConfigError: a negative rate, less than two steps, or a shape parameter out of range.
    """
    return SmithOneCycle(peak=learning_rate, total_steps=total_steps, cycle=cycle, div=div, final_div=final_div)


def smith_one_cycle_momentum(
    total_steps: int, *, high: float = 0.95, low: float = 0.85, cycle: float = 0.9
) -> Schedule:
    """The momentum (or first beta) for `smith_one_cycle`, low where the rate is high; see `SmithOneCycleMomentum`.

    Raises:
        ConfigError: a momentum outside [0, 1), less than two steps, or a share outside (0, 1).
    """
    return SmithOneCycleMomentum(high=high, low=low, total_steps=total_steps, cycle=cycle)
