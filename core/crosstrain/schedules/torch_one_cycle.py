"""One-cycle schedules in the parametrisation of torch.optim.lr_scheduler.OneCycleLR, for the rate and the momentum."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from crosstrain.errors import ConfigError
from crosstrain.schedules.base import (
    Schedule,
    cosine_between,
    require_divisor,
    require_momentum,
    require_pct_start,
    require_rate,
    require_steps,
)

Anneal = Literal["cos", "linear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Phases(Schedule):
    """OneCycleLR's phases: values at turning points, which may lie between two steps, and curves between them.

    With N = total_steps the turning points are 0, pct_start N - 1 and N - 1, or with three phases 0, pct_start N - 1,
    2 pct_start N - 2 and N - 1. From a to b the value at progress q is b + (a - b) (1 + cos(pi q)) / 2, or
    a + (b - a) q where `anneal` is linear.
    """

    total_steps: int
    pct_start: float
    anneal: Anneal
    three_phase: bool

    def __post_init__(self) -> None:
        require_steps("total_steps", self.total_steps)
        require_pct_start(self.pct_start)
        if self.anneal not in get_args(Anneal):
            raise ConfigError(f"anneal must be 'cos' or 'linear', got anneal={self.anneal!r}.")
        if any(start >= end for start, end in pairwise(self.turns())):
            raise ConfigError(
                "every phase must take time, got "
                f"pct_start={self.pct_start} of total_steps={self.total_steps} with three_phase={self.three_phase}. "
                "pct_start * total_steps must be above 1, and three phases need pct_start of at most a half."
            )
        self.check()

    def check(self) -> None:
        """Refuses levels out of range.

        Raises:
            ConfigError: names the field and its value.
        """

    def levels(self) -> tuple[float, ...]:
        """Values at the turning points."""
        raise NotImplementedError

    def turns(self) -> tuple[float, ...]:
        """Steps of the turning points."""
        first, last = self.pct_start * self.total_steps - 1.0, self.total_steps - 1.0
        return (
            (0.0, first, 2.0 * self.pct_start * self.total_steps - 2.0, last) if self.three_phase else (0, first, last)
        )

    def rate(self, step: int) -> float:
        """See the class."""
        levels = self.levels()
        for (start, end), (a, b) in zip(pairwise(self.turns()), pairwise(levels), strict=True):
            if step <= end:
                progress = (step - start) / (end - start)
                return a + (b - a) * progress if self.anneal == "linear" else cosine_between(a, b, progress)
        return levels[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchOneCycle(_Phases):
    """OneCycleLR's rate: peak/div, peak, peak/(div final_div); with three phases back to peak/div before the last.

    See `_Phases` for the steps of the turning points.
    """

    peak: float
    div: float
    final_div: float

    def check(self) -> None:
        """See `_Phases`."""
        require_rate("learning rate", self.peak)
        require_divisor("div", self.div)
        require_divisor("final_div", self.final_div)

    def levels(self) -> tuple[float, ...]:
        """See `_Phases`."""
        first = self.peak / self.div
        last = first / self.final_div
        return (first, self.peak, first, last) if self.three_phase else (first, self.peak, last)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchOneCycleMomentum(_Phases):
    """OneCycleLR's momentum: high, low, high; with three phases it stays high in the last.

    See `_Phases` for the steps of the turning points.
    """

    high: float
    low: float

    def check(self) -> None:
        """See `_Phases`."""
        require_momentum("high", self.high)
        require_momentum("low", self.low)

    def levels(self) -> tuple[float, ...]:
        """See `_Phases`."""
        return (self.high, self.low, self.high, self.high) if self.three_phase else (self.high, self.low, self.high)


def torch_one_cycle(
    learning_rate: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> Schedule:
    """torch's OneCycleLR with its defaults; see `TorchOneCycle` for the formula.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run.
        pct_start: share of the run spent going up.
        div: peak / first rate.
        final_div: first rate / last rate.
        anneal: `cos` or `linear`.
        three_phase: come back to the first rate before the last phase.

    Raises:
        ConfigError: a negative rate, a shape parameter out of range, or a phase shorter than its steps.
    """
    return TorchOneCycle(
        peak=learning_rate,
        total_steps=total_steps,
        pct_start=pct_start,
        div=div,
        final_div=final_div,
        anneal=anneal,
        three_phase=three_phase,
    )


def torch_one_cycle_momentum(
    total_steps: int,
    *,
    high: float = 0.95,
    low: float = 0.85,
    pct_start: float = 0.3,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> Schedule:
    """The momentum (or first beta) that OneCycleLR sets beside the rate; see `TorchOneCycleMomentum`.

    Raises:
        ConfigError: a momentum outside [0, 1), a shape parameter out of range, or a phase shorter than its steps.
    """
    return TorchOneCycleMomentum(
        high=high, low=low, total_steps=total_steps, pct_start=pct_start, anneal=anneal, three_phase=three_phase
    )
