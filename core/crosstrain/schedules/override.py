"""A schedule of which one part is replaced by another: how a training plan changes the rates of its own steps only."""

from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.schedules.base import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Override(Schedule):
    """rate(i) = part(i - start) for start <= i < end; base(i) elsewhere.

    So what was, and what comes after, stays as it is: update counts and averages that depend on past steps do, too.
    """

    base: Schedule
    part: Schedule
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ConfigError(f"start must be at least 0 and at most end, got start={self.start} and end={self.end}.")

    def rate(self, step: int) -> float:
        """See the class."""
        return self.part(step - self.start) if self.start <= step < self.end else self.base(step)
