"""Compares traces of two engines: relative differences step by step, and accuracies against what seeds do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosstrain.parity.recipe import Trace

FLOAT64_LIMIT = 1e-10
"""Two correct engines differ by rounding, below 1e-13 after 50 steps; the smallest planted bug of the catalogue ends
at 1e-6 (docs/numerics.md). The limit lies in the gap between them."""


def relative_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| / max(|a|, |b|), elementwise, float64; 0 where both are 0, infinity where one is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(scale > 0, np.abs(a - b) / scale, 0.0)
    return np.where(np.isfinite(a) & np.isfinite(b), difference, np.inf)


def accuracy_limit(runs: Sequence[Sequence[float]], examples: int) -> float:
    """How far apart the mean accuracies of two engines may be: as far as seeds alone move one engine.

    Args:
        runs: final accuracies over seeds, for each engine.
        examples: test examples (or tokens); one of them is the smallest difference there is.

    Returns:
        The larger range (max - min) over seeds of the two engines, and at least one example.
    """
    return max(1.0 / examples, *(max(values) - min(values) for values in runs))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One recipe on two engines.

    Attributes:
        name: the recipe's.
        checks: float64 runs of the first steps, one per engine.
        runs: float32 runs, for each engine one per seed; the first seed is the one that is shown.
        test_examples: examples (or tokens) behind each accuracy.
    """

    name: str
    checks: tuple[Trace, Trace]
    runs: tuple[tuple[Trace, ...], tuple[Trace, ...]]
    test_examples: int

    @property
    def float64_difference(self) -> float:
        """Largest relative difference of losses and gradient norms over the float64 steps."""
        a, b = self.checks
        if len(a.loss) != len(b.loss):
            return float("inf")
        return float(
            max(relative_difference(a.loss, b.loss).max(), relative_difference(a.grad_norm, b.grad_norm).max())
        )

    @property
    def accuracies(self) -> tuple[list[float], list[float]]:
        """Final accuracies over seeds, for each engine."""
        first, second = self.runs
        return [run.evaluation["accuracy"] for run in first], [run.evaluation["accuracy"] for run in second]

    @property
    def accuracy_difference(self) -> float:
        """Difference of the mean final accuracies; NaN when a run has none."""
        first, second = self.accuracies
        return abs(float(np.mean(first)) - float(np.mean(second)))

    @property
    def accuracy_limit(self) -> float:
        """See `accuracy_limit`."""
        return accuracy_limit(self.accuracies, self.test_examples)

    @property
    def failures(self) -> list[str]:
        """What is too far apart, in words; empty when the engines agree."""
        found = []
        if not self.float64_difference <= FLOAT64_LIMIT:
            found.append(
                f"{self.name}: float64 losses or gradient norms differ by {self.float64_difference:.1e} relative, "
                f"more than {FLOAT64_LIMIT:.0e}: the engines do not run the same algorithm"
            )
        if not self.accuracy_difference <= self.accuracy_limit:
            found.append(
                f"{self.name}: mean accuracies differ by {self.accuracy_difference:.4f}, "
                f"more than seeds make them differ ({self.accuracy_limit:.4f})"
            )
        return found
