"""Schedules that warm up linearly and then decay: linear, cosine, polynomial, warmup-stable-decay."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from crosstrain.errors import ConfigError
from crosstrain.schedules.base import Schedule, require_rate, require_steps

DecayShape = Literal["linear", "cosine", "1-sqrt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Warmed(Schedule):
    """Linear warm-up from 0 over W = warmup_steps, then a decay that `decay(p)` gives, from 1 at p = 0 to 0 at p = 1.

    i < W: peak i / W; else final + (peak - final) decay(p) with p = (i - W) / (total_steps - W), at most 1.
    """

    peak: float
    total_steps: int
    warmup_steps: int
    final: float

    def __post_init__(self) -> None:
        require_rate("learning rate", self.peak)
        require_rate("final rate", self.final)
        require_steps("total_steps", self.total_steps)
        require_steps("warmup_steps", self.warmup_steps, minimum=0)
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                "warmup_steps must be less than total_steps, "
                f"got warmup_steps={self.warmup_steps} of total_steps={self.total_steps}."
            )
        self.check()

    def check(self) -> None:
        """Refuses what only a subclass can know to be wrong.

        Raises:
            ConfigError: names the field and its value.
        """

    def decay(self, progress: float) -> float:
        """Share of the way from `final` (0) to `peak` (1) at `progress` in [0, 1]."""
        raise NotImplementedError

    def decay_start(self) -> int:
        """The last step at the peak."""
        return self.warmup_steps

    def rate(self, step: int) -> float:
        """See the class."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        start = self.decay_start()
        progress = min(max(step - start, 0) / (self.total_steps - start), 1.0)
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
class Polynomial(_Warmed):
    """decay(p) = (1 - p)^power, as Transformers' `get_polynomial_decay_schedule_with_warmup`; torch's PolynomialLR."""

    power: float

    def check(self) -> None:
        """See `_Warmed`."""
        if not (math.isfinite(self.power) and self.power > 0):
            raise ConfigError(f"power must be positive, got power={self.power}. 1 is a straight line.")

    def decay(self, progress: float) -> float:
        """See the class."""
        return (1.0 - progress) ** self.power


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupStableDecay(_Warmed):
    """Warm-up, then the peak until N - D, then a decay over D steps (Hu et al. 2024, MiniCPM, section 4).

    With N = total_steps, D = decay_steps and p = (i - (N - D)) / D: decay(p) = 1 - p, (1 + cos(pi p)) / 2, or
    1 - sqrt(p) (Haegele et al. 2024).
    """

    decay_steps: int
    shape: DecayShape

    def check(self) -> None:
        """See `_Warmed`."""
        require_steps("decay_steps", self.decay_steps)
        if self.warmup_steps + self.decay_steps > self.total_steps:
            raise ConfigError(
                "warmup_steps + decay_steps must be at most total_steps, got "
                f"warmup_steps={self.warmup_steps} and decay_steps={self.decay_steps} of {self.total_steps}."
            )
        if self.shape not in get_args(DecayShape):
            raise ConfigError(f"shape must be one of {', '.join(get_args(DecayShape))}, got shape={self.shape!r}.")

    def decay_start(self) -> int:
        """See `_Warmed`."""
        return self.total_steps - self.decay_steps

    def decay(self, progress: float) -> float:
        """See the class."""
        if self.shape == "linear":
            return 1.0 - progress
        return 1.0 - math.sqrt(progress) if self.shape == "1-sqrt" else 0.5 * (1.0 + math.cos(math.pi * progress))


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


def polynomial(
    learning_rate: float, total_steps: int, *, power: float = 1.0, warmup_steps: int = 0, final: float = 0.0
) -> Schedule:
    """Warm-up from 0 to `learning_rate`, then (1 - progress)^power down to `final` at `total_steps`.

    Raises:
        ConfigError: a negative rate, no steps, a warm-up that is not shorter than the run, or a power that is not > 0.
    """
    return Polynomial(peak=learning_rate, total_steps=total_steps, warmup_steps=warmup_steps, final=final, power=power)


def warmup_stable_decay(
    learning_rate: float,
    total_steps: int,
    *,
    warmup_steps: int,
    decay_steps: int,
    shape: DecayShape = "linear",
    final: float = 0.0,
) -> Schedule:
    """Warm-up from 0, `learning_rate` until `decay_steps` before the end, then down to `final` at `total_steps`.

    Raises:
        ConfigError: a negative rate, phases that are longer than the run, or an unknown shape.
    """
    return WarmupStableDecay(
        peak=learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        final=final,
        decay_steps=decay_steps,
        shape=shape,
    )
