"""The learning-rate range test: rates that grow at every step, until the loss leaves; then everything as it was before.

Source: Smith 2017 (section 3.3) in fastai's form (`LRFinder`): exponential rates, the loss smoothed with bias
correction (`AvgSmoothLoss`), and an end where it is four times its best.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstrain.data.phases import Batches
from crosstrain.errors import ConfigError, DataError, NonFiniteLossError, require_count, require_instance
from crosstrain.metrics import Metrics
from crosstrain.schedules import Override, lr_range
from crosstrain.state import TrainState
from crosstrain.step import TrainStep
from crosstrain.training.suggestions import SUGGESTIONS

if TYPE_CHECKING:
    from pathlib import Path

_LAST_LEFT_OUT = 5
_FEWEST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """How the range test goes; fastai's numbers.

    Attributes:
        start: the first rate.
        end: the rate of the last step.
        steps: how many, at most.
        stop_factor: ends at a smoothed loss above this times the best; None never does.
        smoothing: s in a(i) = s a(i-1) + (1 - s) loss(i), smoothed(i) = a(i) / (1 - s^(i+1)).

    Raises:
        ConfigError: rates that do not grow, a number out of range, or fewer than 20 steps.
    """

    start: float = 1e-7
    end: float = 10.0
    steps: int = 100
    stop_factor: float | None = 4.0
    smoothing: float = 0.98

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        if self.steps < 20:
            raise ConfigError(f"steps must be at least 20, got steps={self.steps}. 100 is usual.")
        if not 0.0 < self.start < self.end < math.inf:
            raise ConfigError(f"rates must grow from above 0, got start={self.start} and end={self.end}.")
        if self.stop_factor is not None and not self.stop_factor > 1.0:
            raise ConfigError(f"stop_factor must be above 1 or None, got stop_factor={self.stop_factor}.")
        if not 0.0 <= self.smoothing < 1.0:
            raise ConfigError(f"smoothing must be in [0, 1), got smoothing={self.smoothing}.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RangeCurve:
    """What a range test found.

    Attributes:
        rates: of every step that was taken, float64, shape (n,).
        losses: of every step, float64, shape (n,).
        smoothed: smoothed losses, float64, shape (n,).
        skip: how many of the first steps suggestions leave out; they leave out the last five, too.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    skip: int

    @property
    def suggestions(self) -> dict[str, float]:
        """`valley`, `steep` and `minimum` -> learning rate; see `crosstrain.training.suggestions` for the formulas.

        Raises:
            DataError: the loss left so early that there is nothing to read off.
        """
        used = slice(self.skip, len(self.rates) - _LAST_LEFT_OUT)
        rates, losses = self.rates[used], self.smoothed[used]
        finite = np.isfinite(losses)
        rates, losses = rates[finite], losses[finite]
        if len(rates) < _FEWEST:
            raise DataError(
                f"the range test must take some steps before the loss leaves, got {len(self.rates)}. "
                "Begin at a lower rate, take more steps, or look at the loss function."
            )
        return {name: suggest(rates, losses) for name, suggest in SUGGESTIONS.items()}

    @property
    def valley(self) -> float:
        """The suggestion that fastai takes by default."""
        return self.suggestions["valley"]

    def plot(self, path: "Path | str") -> None:
        """Writes the curve with its suggestions as an image.

        Raises:
            ConfigError: a path that ends in no kind of image.
            CrosstrainError: matplotlib is not installed.
            DataError: as `suggestions`.
        """
        from crosstrain.training.figures import draw_range, save

        save(draw_range(self), path)

    def text(self, width: int = 72, height: int = 12) -> str:
        """The curve with its suggestions for a terminal, in Unicode.

        Raises:
            DataError: as `suggestions`.
        """
        from crosstrain.training.terminal import range_text

        return range_text(self, width, height)


def range_test(step: TrainStep, state: TrainState, loader: Batches, test: RangeTest) -> RangeCurve:
    """Runs the range test, and puts state, optimizer and loader back bit for bit, also after an exception."""
    require_instance("test", test, RangeTest, "ct.RangeTest(steps=50)")
    put_back, optimizer = state.keep(), state.optimizer
    rates = lr_range(test.start, test.end, test.steps)
    planned = Override(base=optimizer.learning_rate, part=rates, start=state.step, end=state.step + test.steps)
    # Layers keep their own shares of the rate, and what is frozen stays so.
    state.change_optimizer(replace(optimizer, learning_rate=planned))
    try:
        with loader.aside():
            losses = _losses(step, state, loader, test)
    finally:
        _drop_last_check(step)
        put_back()  # first: a later step may be one in which no parameter would learn, which is refused
        state.change_optimizer(optimizer)
    return RangeCurve(
        rates=rates.table(test.steps)[: len(losses)],
        losses=losses,
        smoothed=smooth(losses, test.smoothing),
        skip=test.steps // 10,
    )


def smooth(losses: np.ndarray, smoothing: float) -> np.ndarray:
    """Exponential averages without the bias towards 0 of their start; see `RangeTest.smoothing`."""
    found, average = np.empty(len(losses)), 0.0
    for index, loss in enumerate(losses):
        average = smoothing * average + (1.0 - smoothing) * loss
        found[index] = average / (1.0 - smoothing ** (index + 1))
    return found


def _losses(step: TrainStep, state: TrainState, loader: Batches, test: RangeTest) -> np.ndarray:
    """Losses until the test is over. Each is read when the next step is on its way."""
    losses: list[float] = []
    pending: Metrics | None = None
    for batch in itertools.islice(_batches(loader), test.steps):
        try:
            sent = step(state, batch)
        except NonFiniteLossError:
            losses.append(math.nan)
            return np.array(losses)
        if pending is not None:
            losses.append(pending["loss"])
            if _left(losses, test):
                return np.array(losses)
        pending = sent
    if pending is not None:
        losses.append(pending["loss"])
    return np.array(losses)


def _left(losses: list[float], test: RangeTest) -> bool:
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(np.array(losses), test.smoothing)
    return test.stop_factor is not None and bool(smoothed[-1] > test.stop_factor * smoothed.min())


def _batches(loader: Batches) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def _drop_last_check(step: TrainStep) -> None:
    try:
        step.finish()
    except NonFiniteLossError:
        return
