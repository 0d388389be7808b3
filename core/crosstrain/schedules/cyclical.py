"""Schedules that go up and down in cycles, and the exponential range of a learning-rate range test."""

from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.schedules.base import Schedule, require_rate, require_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Triangular(Schedule):
    """Straight lines between `base` and `peak` (Smith 2017, section 3.2; torch's CyclicLR).

    With c = floor(i / 2h), h = half_cycle_steps: rate(i) = base + (peak - base) (1 - |i / h - 2c - 1|) / 2^c,
    where 2^c (his triangular2) is 1 unless `halving`.
    """

    base: float
    peak: float
    half_cycle_steps: int
    halving: bool

    def __post_init__(self) -> None:
        require_rate("base", self.base)
        require_rate("peak", self.peak)
        require_steps("half_cycle_steps", self.half_cycle_steps)

    def rate(self, step: int) -> float:
        """See the class."""
        cycle, position = divmod(step, 2 * self.half_cycle_steps)
        height = 1.0 - abs(position / self.half_cycle_steps - 1.0)
        return self.base + (self.peak - self.base) * height * (0.5**cycle if self.halving else 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LrRange(Schedule):
    """rate(i) = start (end / start)^(i / (steps - 1)), so that the last of `steps` steps has the rate `end`.

    The range test is Smith's (2017, section 3.3); the exponential form is Gugger's (2018) and fastai's.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            require_rate(name, getattr(self, name))
            if getattr(self, name) == 0:
                raise ConfigError(f"{name} must be above 0, got {name}=0.0. An exponential range never reaches it.")
        require_steps("steps", self.steps, minimum=2)

    def rate(self, step: int) -> float:
        """See the class."""
        progress = min(step / (self.steps - 1), 1.0)
        return self.start * (self.end / self.start) ** progress


def triangular(base: float, peak: float, half_cycle_steps: int) -> Schedule:
    """From `base` to `peak` in `half_cycle_steps` steps, back in as many, and so on; see `Triangular`.

    A momentum is cycled against the rate by a base above the peak: `triangular(0.95, 0.85, n)`.

    Raises:
        ConfigError: a negative rate, or less than one step.
    """
    return Triangular(base=base, peak=peak, half_cycle_steps=half_cycle_steps, halving=False)


def triangular2(base: float, peak: float, half_cycle_steps: int) -> Schedule:
    """As `triangular`, with half the height in every new cycle.

    Raises:
        ConfigError: a negative rate, or less than one step.
    """
    return Triangular(base=base, peak=peak, half_cycle_steps=half_cycle_steps, halving=True)


def lr_range(start: float, end: float, steps: int) -> Schedule:
    """Rates for a learning-rate range test: equal factors from `start` to `end`; see `LrRange`.

    Raises:
        ConfigError: a rate that is not above 0, or less than two steps.
    """
    return LrRange(start=start, end=end, steps=steps)
