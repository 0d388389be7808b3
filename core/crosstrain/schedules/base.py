"""What every schedule is: a function of the optimizer step; the constant one; and the checks that the others share."""

import math
from dataclasses import dataclass

import numpy as np

from crosstrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A learning rate (or a momentum) as a function of the optimizer step. Subclasses give `rate`.

    Two schedules are the same run when they compare equal: they are plain data.
    """

    def __call__(self, step: int) -> float:
        """The value (dimensionless, >= 0) at the 0-based optimizer step `step`.

        Raises:
            ConfigError: `step` is negative.
        """
        if step < 0:
            raise ConfigError(f"step must be at least 0, got step={step}.")
        return self.rate(step)

    def rate(self, step: int) -> float:
        """The formula; `step` is at least 0."""
        raise NotImplementedError

    def table(self, steps: int) -> np.ndarray:
        """The values of steps 0 .. steps - 1, float64, shape (steps,)."""
        return np.array([self(step) for step in range(steps)], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Schedule):
    """rate(i) = value."""

    value: float

    def __post_init__(self) -> None:
        require_rate("learning rate", self.value)

    def rate(self, step: int) -> float:
        """See the class."""
        return self.value


def constant(learning_rate: float) -> Schedule:
    """The same rate at every step.

    Raises:
        ConfigError: a negative or non-finite rate.
    """
    return Constant(value=learning_rate)


def as_schedule(learning_rate: "Schedule | float") -> Schedule:
    """A `Schedule` as it is, a number as `constant`.

    Raises:
        ConfigError: neither a schedule nor a number.
    """
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if isinstance(learning_rate, int | float) and not isinstance(learning_rate, bool):
        return constant(float(learning_rate))
    raise ConfigError(
        f"learning_rate must be a number or a Schedule, got {type(learning_rate).__name__}. "
        "Use a float, or a schedule such as ct.cosine or ct.one_cycle."
    )


def cosine_between(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end` as `progress` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def require_steps(name: str, value: int, minimum: int = 1) -> None:
    """Refuses too few steps.

    Raises:
        ConfigError: names the field, its value and what to pass.
    """
    if value < minimum:
        raise ConfigError(
            f"{name} must be at least {minimum}, got {name}={value}. "
            "A schedule counts optimizer steps: pass len(loader) * epochs, and check that the loader is not empty."
        )


def require_rate(name: str, value: float) -> None:
    """Refuses negative, infinite and undefined rates.

    Raises:
        ConfigError: names the field and its value.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be a finite rate of at least 0, got {name}={value}.")


def require_momentum(name: str, value: float) -> None:
    """Refuses a momentum outside [0, 1).

    Raises:
        ConfigError: names the field and its value.
    """
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1), got {name}={value}.")


def require_pct_start(value: float) -> None:
    """Refuses a share of the run outside (0, 1).

    Raises:
        ConfigError: names the value.
    """
    if not 0 < value < 1:
        raise ConfigError(f"pct_start must be between 0 and 1, got pct_start={value}.")


def require_divisor(name: str, value: float) -> None:
    """Refuses divisors below 1.

    Raises:
        ConfigError: names the field and its value.
    """
    if not value >= 1:
        raise ConfigError(f"{name} must be at least 1, got {name}={value}.")
