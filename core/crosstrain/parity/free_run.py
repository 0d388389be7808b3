"""Free runs in low precision: losses against what nudged rounding makes of one side, and how much that can prove."""

import math
from dataclasses import dataclass

import numpy as np

FACTOR = 4.0
"""Envelopes that are allowed."""
FLOOR_ULPS = 8.0
QUANTILE = 0.95
HORIZON_ULPS = 84.0
"""Envelope, in units of the last place, at which the horizon ends: 1e-5 in float32. Beyond it a run has forgotten where
it came from, and losses of single steps say nothing."""
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeRun:
    """Free-running losses against the envelope of the reference.

    Attributes:
        difference: relative loss difference of the two sides, shape (steps,).
        nudged: the same of the reference against itself with nudged rounding, shape (seeds, steps).
        ulp: unit in the last place of the compute type.
    """

    difference: np.ndarray
    nudged: np.ndarray
    ulp: float

    @property
    def envelope(self) -> np.ndarray:
        """0.95 quantile over seeds of what nudging makes, shape (steps,)."""
        return np.asarray(np.quantile(self.nudged, QUANTILE, axis=0))

    @property
    def horizon(self) -> int:
        """Steps for which the envelope stays below 84 units in the last place; at least 1."""
        return self._horizon(self.envelope)

    @property
    def multiple(self) -> float:
        """Largest multiple of four envelopes (and eight units in the last place) within the horizon."""
        return self._multiple(self.difference, self.nudged)

    @property
    def outside(self) -> int:
        """How many of the nudged runs, all of them correct, leave the limit that the others draw."""
        others = (np.delete(self.nudged, index, axis=0) for index in range(len(self.nudged)))
        runs = zip(self.nudged, others, strict=True)
        return sum(self._multiple(run, rest) > 1.0 for run, rest in runs if len(rest))

    @property
    def confidence(self) -> str:
        """What leaving the envelope would prove: how often correct runs do."""
        seeds, position = len(self.nudged), QUANTILE * (len(self.nudged) - 1)
        odds = [f"{seeds - rank}/{seeds + 1}" for rank in dict.fromkeys((math.ceil(position), math.floor(position)))]
        return (
            f"the envelope is the {QUANTILE} quantile of {seeds} nudged runs; at any one step a correct run lies above "
            f"it with probability {' to '.join(odds)}, and above the largest of the {seeds} with 1/{seeds + 1}. The "
            f"limit is {FACTOR:g} envelopes and {FLOOR_ULPS:g} units in the last place: {self.outside} of the {seeds} "
            f"nudged runs leave the one that the others draw, so a correct run leaves it with probability below "
            f"{chance(self.outside, seeds):.0%} ({_CONFIDENCE:.0%} confidence)"
        )

    def _horizon(self, envelope: np.ndarray) -> int:
        beyond = np.flatnonzero(np.maximum.accumulate(envelope) > HORIZON_ULPS * self.ulp)
        return max(1, int(beyond[0])) if len(beyond) else len(envelope)

    def _multiple(self, difference: np.ndarray, nudged: np.ndarray) -> float:
        envelope = np.quantile(nudged, QUANTILE, axis=0)
        allowed = FACTOR * np.maximum.accumulate(envelope) + FLOOR_ULPS * self.ulp
        return float((difference / allowed)[: self._horizon(envelope)].max())


def chance(events: int, trials: int) -> float:
    """Upper bound of a probability, from how often it came true (Clopper and Pearson 1934, one-sided, 95 %)."""
    low, high = events / trials, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        tail = sum(math.comb(trials, k) * middle**k * (1 - middle) ** (trials - k) for k in range(events + 1))
        low, high = (middle, high) if tail > 1 - _CONFIDENCE else (low, middle)
    return high
