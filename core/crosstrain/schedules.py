"""Learning-rate schedules: plain functions of the optimizer step, evaluated once, in float64, on the host.

Step `i` (0-based) gives the rate of the update that makes the model `i + 1` updates old. The value reaches the
compiled step as data, so both engines use the same numbers and nothing retraces. Past its last step a schedule
keeps its final value.
"""

import math
from dataclasses import dataclass

import numpy as np

from crosstrain.errors import ConfigError


def _require_steps(name: str, value: int, minimum: int = 1) -> None:
    if value < minimum:
        raise ConfigError(
            f"{name} must be at least {minimum}, got {name}={value}. "
            "A schedule counts optimizer steps: pass len(loader) * epochs, and check that the loader is not empty."
        )


def _require_rate(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be a finite rate of at least 0, got {name}={value}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A learning rate as a function of the optimizer step. Subclasses give `rate`.

    Two schedules are the same run when they compare equal: they are plain data.
    """

    def __call__(self, step: int) -> float:
        """The rate (dimensionless, >= 0) of the 0-based optimizer step `step`.

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
        """The rates of steps 0 .. steps - 1, float64, shape (steps,)."""
        return np.array([self(step) for step in range(steps)], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Schedule):
    """rate(i) = value."""

    value: float

    def __post_init__(self) -> None:
        _require_rate("learning rate", self.value)

    def rate(self, step: int) -> float:
        """See the class."""
        return self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class _Warmed(Schedule):
    """Linear warm-up from 0 over `warmup_steps`, then a decay that `decay(progress)` gives for [0, 1]."""

    peak: float
    total_steps: int
    warmup_steps: int
    final: float

    def __post_init__(self) -> None:
        _require_rate("learning rate", self.peak)
        _require_rate("final rate", self.final)
        _require_steps("total_steps", self.total_steps)
        _require_steps("warmup_steps", self.warmup_steps, minimum=0)
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                "warmup_steps must be less than total_steps, "
                f"got warmup_steps={self.warmup_steps} of total_steps={self.total_steps}."
            )

    def decay(self, progress: float) -> float:
        """Share of the way from `final` (0) to `peak` (1) at `progress` in [0, 1]."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """See the class."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        return self.final + (self.peak - self.final) * self.decay(progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(_Warmed):
    """decay(p) = 1 - p, as Transformers' `get_linear_schedule_with_warmup`."""

    def decay(self, progress: float) -> float:
        """See the class."""
        return 1.0 - progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(_Warmed):
    """decay(p) = (1 + cos(pi p)) / 2, SGDR without restarts (Loshchilov and Hutter 2017, eq. 5)."""

    def decay(self, progress: float) -> float:
        """See the class."""
        return 0.5 * (1.0 + math.cos(math.pi * progress))


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
        _require_rate("learning rate", self.peak)
        _require_steps("total_steps", self.total_steps)
        if not 0 < self.pct_start < 1:
            raise ConfigError(f"pct_start must be between 0 and 1, got pct_start={self.pct_start}.")
        for name in ("div", "final_div"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} must be at least 1, got {name}={getattr(self, name)}.")

    def rate(self, step: int) -> float:
        """See the class."""
        position = min(step / self.total_steps, 1.0)
        if position < self.pct_start:
            return _cosine_between(self.peak / self.div, self.peak, position / self.pct_start)
        progress = (position - self.pct_start) / (1 - self.pct_start)
        return _cosine_between(self.peak, self.peak / self.final_div, progress)


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def constant(learning_rate: float) -> Schedule:
    """The same rate at every step.

    Raises:
        ConfigError: a negative or non-finite rate.
    """
    return Constant(value=learning_rate)


def linear(learning_rate: float, total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Warm-up from 0 to `learning_rate`, then a straight line to `final` at `total_steps`.

    Raises:
        ConfigError: a negative rate, no steps, or a warm-up that is not shorter than the run.
    """
    return Linear(peak=learning_rate, total_steps=total_steps, warmup_steps=warmup_steps, final=final)


def cosine(learning_rate: float, total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Warm-up from 0 to `learning_rate`, then half a cosine to `final` at `total_steps`.

    Raises:
        ConfigError: a negative rate, no steps, or a warm-up that is not shorter than the run.
    """
    return Cosine(peak=learning_rate, total_steps=total_steps, warmup_steps=warmup_steps, final=final)


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
        "Use a float, or one of constant, linear, cosine, one_cycle."
    )
