"""One-cycle schedules in fastai's and optax's form, and the momentum that fastai cycles against the rate."""

from dataclasses import dataclass

from crosstrain.schedules.base import (
    Schedule,
    cosine_between,
    require_divisor,
    require_momentum,
    require_pct_start,
    require_rate,
    require_steps,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycle(Schedule):
    """fastai's one-cycle: cosine from peak/div to peak over `pct_start`, cosine down to peak/final_div.

    With p = i / total_steps and cos(a, b, q) = b + (a - b) (1 + cos(pi q)) / 2:
    p < pct_start: cos(peak/div, peak, p / pct_start);
    else cos(peak, peak/final_div, (p - pct_start) / (1 - pct_start)).
    Source: Smith and Topin 2018 (super-convergence) in the form of fastai's `combined_cos` and `fit_one_cycle`.
    """

    peak: float
    total_steps: int
    pct_start: float
    div: float
    final_div: float

    def __post_init__(self) -> None:
        _require_shape(self)

    def rate(self, step: int) -> float:
        """See the class."""
        return _two_cosines(
            step / self.total_steps, self.pct_start, (self.peak / self.div, self.peak, self.peak / self.final_div)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycleMomentum(Schedule):
    """fastai's momentum against `OneCycle`: cosine from high to low over `pct_start`, cosine back to high.

    The formula is `OneCycle`'s with high, low, high in the place of peak/div, peak, peak/final_div.
    """

    high: float
    low: float
    total_steps: int
    pct_start: float

    def __post_init__(self) -> None:
        require_momentum("high", self.high)
        require_momentum("low", self.low)
        require_steps("total_steps", self.total_steps)
        require_pct_start(self.pct_start)

    def rate(self, step: int) -> float:
        """See the class."""
        return _two_cosines(step / self.total_steps, self.pct_start, (self.high, self.low, self.high))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptaxOneCycle(Schedule):
    """optax.cosine_onecycle_schedule: cosine from peak/div to peak at step K, cosine down to peak/(div final_div) at N.

    With N = total_steps, K = int(pct_start N) and cos as in `OneCycle`:
    i < K: cos(peak/div, peak, i / K); else cos(peak, peak/(div final_div), (i - K) / (N - K)).
    """

    peak: float
    total_steps: int
    pct_start: float
    div: float
    final_div: float

    def __post_init__(self) -> None:
        _require_shape(self)

    def rate(self, step: int) -> float:
        """See the class."""
        turn, first = int(self.pct_start * self.total_steps), self.peak / self.div
        if step < turn:
            return cosine_between(first, self.peak, step / turn)
        progress = min((step - turn) / (self.total_steps - turn), 1.0)
        return cosine_between(self.peak, first / self.final_div, progress)


def _require_shape(schedule: OneCycle | OptaxOneCycle) -> None:
    require_rate("learning rate", schedule.peak)
    require_steps("total_steps", schedule.total_steps)
    require_pct_start(schedule.pct_start)
    require_divisor("div", schedule.div)
    require_divisor("final_div", schedule.final_div)


def _two_cosines(position: float, turn: float, levels: tuple[float, float, float]) -> float:
    """From the first level to the second at `turn`, to the third at 1; `position` is a share of the run."""
    if position < turn:
        return cosine_between(levels[0], levels[1], position / turn)
    return cosine_between(levels[1], levels[2], (min(position, 1.0) - turn) / (1.0 - turn))


def one_cycle(
    learning_rate: float,
    total_steps: int,
    *,
    pct_start: float = 0.25,
    div: float = 25.0,
    final_div: float = 1e5,
) -> Schedule:
    """fastai's one-cycle schedule with its defaults; see `OneCycle` for the formula.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run.
        pct_start: share of the run spent going up.
        div: peak / first rate.
        final_div: peak / last rate.

    Raises:
        ConfigError: a negative rate, no steps, or a shape parameter out of range.
    """
    return OneCycle(peak=learning_rate, total_steps=total_steps, pct_start=pct_start, div=div, final_div=final_div)


def flat_cos(learning_rate: float, total_steps: int, *, pct_start: float = 0.75, final_div: float = 1e5) -> Schedule:
    """fastai's `fit_flat_cos`: flat for `pct_start` of the run, then half a cosine; `OneCycle` with div = 1.

    Args:
        learning_rate: the rate of the flat part.
        total_steps: optimizer steps of the whole run.
        pct_start: share of the run that is flat.
        final_div: first rate / last rate.

    Raises:
        ConfigError: a negative rate, no steps, or a shape parameter out of range.
    """
    return OneCycle(peak=learning_rate, total_steps=total_steps, pct_start=pct_start, div=1.0, final_div=final_div)


def one_cycle_momentum(total_steps: int, *, high: float = 0.95, low: float = 0.85, pct_start: float = 0.25) -> Schedule:
    """fastai's momentum (or first beta) for `one_cycle`, low where the rate is high; see `OneCycleMomentum`.

    Raises:
        ConfigError: a momentum outside [0, 1), no steps, or a share outside (0, 1).
    """
    return OneCycleMomentum(high=high, low=low, total_steps=total_steps, pct_start=pct_start)


def optax_one_cycle(
    learning_rate: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
) -> Schedule:
    """optax's cosine one-cycle schedule with its defaults; see `OptaxOneCycle` for the formula.

    Args:
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run.
        pct_start: share of the run spent going up.
        div: peak / first rate.
        final_div: first rate / last rate.

    Raises:
        ConfigError: a negative rate, no steps, or a shape parameter out of range.
    """
    return OptaxOneCycle(peak=learning_rate, total_steps=total_steps, pct_start=pct_start, div=div, final_div=final_div)
