"""What to read off the curve of a learning-rate range test: fastai's suggestions, as formulas over plain arrays.

Every function takes rates (ascending) and smoothed losses, float64, shape (n,), n >= 2, and returns one of the rates,
`minimum` a tenth of one. Source: fastai's callback/schedule.py (`valley`, `steep`, `minimum`).
"""

from collections.abc import Callable, Mapping

import numpy as np


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Two thirds into the longest valley.

    The longest valley is the longest strictly decreasing subsequence of the losses; of several the one that ends first.
    With its end e, its length l and s = e - l: the rate at index s + floor(l / 3) + floor(l / 6), and at least 0. Where
    the loss never falls, the first rate.
    """
    lengths = np.ones(len(losses), dtype=int)
    end = 0
    for i in range(1, len(losses)):
        below = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + (below.max() if len(below) else 0)
        if lengths[i] > lengths[end]:
            end = i
    length = int(lengths[end])
    return float(rates[max(end - length + length // 3 + length // 6, 0)]) if length > 1 else float(rates[0])


def steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Where the loss falls fastest: the rate i that minimises (loss[i+1] - loss[i]) / (log rate[i+1] - log rate[i])."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))])


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(rates[np.argmin(losses)]) / 10.0


SUGGESTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
}
