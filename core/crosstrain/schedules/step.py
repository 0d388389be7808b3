"""Schedules that fall in steps."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.schedules.base import Schedule, require_rate, require_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDecay(Schedule):
    """rate(i) = peak factor^floor(i / every), as torch's StepLR."""

    peak: float
    every: int
    factor: float

    def __post_init__(self) -> None:
        require_rate("learning rate", self.peak)
        require_rate("factor", self.factor)
        require_steps("every", self.every)

    def rate(self, step: int) -> float:
        """See the class."""
        return self.peak * self.factor ** (step // self.every)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiStepDecay(Schedule):
    """rate(i) = peak factor^n, where n milestones are at most i, as torch's MultiStepLR."""

    peak: float
    milestones: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        require_rate("learning rate", self.peak)
        require_rate("factor", self.factor)
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=0) < 0:
            raise ConfigError(
                f"milestones must be optimizer steps in rising order, got milestones={self.milestones}. "
                "Sort them and leave out duplicates."
            )

    def rate(self, step: int) -> float:
        """See the class."""
        return self.peak * self.factor ** bisect.bisect_right(self.milestones, step)


def step_decay(learning_rate: float, every: int, *, factor: float = 0.1) -> Schedule:
    """Multiplies the rate by `factor` every `every` steps; see `StepDecay`.

    Raises:
        ConfigError: a negative rate or factor, or less than one step.
    """
    return StepDecay(peak=learning_rate, every=every, factor=factor)


def multi_step_decay(learning_rate: float, milestones: Sequence[int], *, factor: float = 0.1) -> Schedule:
    """Multiplies the rate by `factor` at each milestone; see `MultiStepDecay`.

    Raises:
        ConfigError: a negative rate or factor, or milestones that are not in rising order.
    """
    return MultiStepDecay(peak=learning_rate, milestones=tuple(milestones), factor=factor)
