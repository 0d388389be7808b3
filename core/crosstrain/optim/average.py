"""Averages of the weights over training: exponential (EMA), stochastic weight averaging (SWA), Lookahead.

All are one update after each optimizer step, a = a + w (p - a), with a weight `w` that core gives as data.
"""

from dataclasses import dataclass
from typing import ClassVar

from crosstrain.errors import ConfigError, require_count
from crosstrain.optim.roles import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """Base: an average that starts as the initial weights.

    Attributes:
        pulls: whether the weights become the average after a step with w > 0.
    """

    pulls: ClassVar[bool] = False

    def weight(self, step: int) -> float:
        """w after the 0-based optimizer step `step`: the share of the new weights."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ema(Averaging):
    """w = 1 - decay (Polyak and Juditsky 1992, exponential form), without bias correction: it starts at the weights."""

    decay: float

    def __post_init__(self) -> None:
        require("decay", self.decay, 0.0, 1.0)

    def weight(self, step: int) -> float:
        """See the class."""
        return 1.0 - self.decay


@dataclass(frozen=True, kw_only=True, slots=True)
class Swa(Averaging):
    """The mean of the weights after steps start, start + every, ... (Izmailov et al. 2018): w = 1 / (n + 1), else 0.

    BatchNorm's running statistics are those of the current weights, not of the average.
    """

    start: int
    every: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.every < 1:
            raise ConfigError(
                f"start must be at least 0 and every at least 1, got start={self.start} and every={self.every}."
            )

    def weight(self, step: int) -> float:
        """See the class."""
        since = step - self.start
        return 1.0 / (since // self.every + 1) if since >= 0 and since % self.every == 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookahead(Averaging):
    """Every `every` steps the average goes a `share` of the way to the weights, and the weights go back to it: p = a.

    w = share after steps every - 1, 2 every - 1, ... (0-based), else 0 (Zhang et al. 2019, algorithm 1). Moments stay
    as they are, and so do parameters that a step leaves as they are. BatchNorm's running statistics are those of the
    current weights, not of the average.
    """

    pulls: ClassVar[bool] = True
    every: int
    share: float

    def __post_init__(self) -> None:
        require_count("every", self.every)
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"share must be in (0, 1], got share={self.share}.")

    def weight(self, step: int) -> float:
        """See the class."""
        return self.share if (step + 1) % self.every == 0 else 0.0


def ema(decay: float) -> Averaging:
    """See `Ema`.

    Raises:
        ConfigError: a decay outside [0, 1).
    """
    return Ema(decay=decay)


def swa(start: int, *, every: int = 1) -> Averaging:
    """See `Swa`; steps are 0-based optimizer steps.

    Raises:
        ConfigError: a negative start, or less than one step between samples.
    """
    return Swa(start=start, every=every)


def lookahead(*, every: int = 5, share: float = 0.5) -> Averaging:
    """See `Lookahead`; the defaults are the paper's.

    Args:
        every: optimizer steps from one average to the next.
        share: how far the average goes towards the weights.

    Raises:
        ConfigError: less than one step, or a share outside (0, 1].
    """
    return Lookahead(every=every, share=share)
