"""`DiLoCo`: what islands that train alone make of their weights every so many steps. Said once, in NumPy."""

from dataclasses import dataclass

import numpy as np

from crosstrain.errors import ConfigError, require_count


@dataclass(frozen=True, kw_only=True, slots=True)
class DiLoCo:
    """Outer steps over slow links: each island takes `every` steps of its own, then all move together.

    The outer gradient is how far the islands have come on average, g = start - mean(weights), and the outer optimizer
    is SGD on it: v <- momentum v + g, then start <- start - learning_rate (g + momentum v), or (v) without
    `nesterov`. All islands go on from there, each with its own moments. Local SGD, the plain mean of the weights,
    is `learning_rate=1, momentum=0`.

    Args:
        every: optimizer steps of an island between outer steps.
        learning_rate: of the outer steps.
        momentum: of the outer steps, in [0, 1).
        nesterov: whether the outer step looks ahead.

    Raises:
        ConfigError: a number out of range.

    Source: Douillard et al. 2023, arXiv:2311.08105, algorithm 1; Stich 2018, arXiv:1805.09767, for local SGD.
    """

    every: int
    learning_rate: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        require_count("every", self.every)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be above 0, got learning_rate={self.learning_rate}.")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got momentum={self.momentum}.")

    def update(self, start: np.ndarray, mean: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One outer step of one parameter.

        Args:
            start: where all islands were after the last outer step.
            mean: of the weights that they have come to, of the same shape.
            velocity: zeros before the first outer step.

        Returns:
            Where all go on from, and the velocity; computed in float64, in the type of `start`.
        """
        gradient = start.astype(np.float64) - mean
        after = self.momentum * velocity + gradient
        step = gradient + self.momentum * after if self.nesterov else after
        return (start - self.learning_rate * step).astype(start.dtype), after.astype(start.dtype)
