"""Measurements of a comparison, and what counts as a difference."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

Channel = Literal["data", "settings", "activation", "loss", "backward", "optimizer", "step", "schedule"]
"""Where two runs part, in causal order: what goes in, how it is configured, the forward pass, the loss, the gradients,
the update from equal gradients, the whole step (accumulation, clipping), and what changes from step to step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference that rounding does not explain.

    Attributes:
        channel: where the runs part.
        where: the layer, parameter or setting.
        difference: relative difference; infinity where the two cannot be compared.
        limit: what was allowed.
        step: 0-based optimizer step, or None for what holds for the whole run.
        cause: what it probably comes from, in words.
    """

    channel: Channel
    where: str
    difference: float
    limit: float
    step: int | None = None
    cause: str = ""

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        why = f": {self.cause}" if self.cause else ""
        return f"{self.channel}: {self.where} differs by {self.difference:.1e} (limit {self.limit:.0e}){at}{why}"


def tensor_difference(a: np.ndarray, b: np.ndarray, *, floor: float = 0.0) -> float:
    """max|a - b| / max(max|a|, max|b|, floor); infinity for other sizes or values that are not finite.

    One side may put channels or the sequence first where the other puts them last, or flatten leading dimensions: of
    the orientations in which the shapes fit, the best is taken.
    """
    turned = oriented(a, b)
    return float("inf") if turned is None else _difference(a, turned, floor)


def oriented(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """`b` in the shape of `a`, in the orientation that is nearest; None where there is none."""
    candidates = _orientations(a.shape, b) if a.size == b.size else []
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    return min(candidates, key=lambda each: _difference(a, each, 0.0))


def _orientations(shape: tuple[int, ...], b: np.ndarray) -> list[np.ndarray]:
    if len(shape) != b.ndim:
        return [b.reshape(shape)]
    turned = [(0, 2, 3, 1), (0, 3, 1, 2)] if b.ndim == len(("n", "c", "h", "w")) else []
    axes = [tuple(range(b.ndim)), *turned] if shape == b.shape else permutations(range(b.ndim))
    return [b.transpose(each) for each in axes if tuple(b.shape[axis] for axis in each) == shape]


def _difference(a: np.ndarray, b: np.ndarray, floor: float) -> float:
    if not a.size:
        return 0.0
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()), floor)
    return float(np.abs(a - b).max()) / scale if scale else 0.0


def differences(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], *, share: float = 0.0) -> dict[str, float]:
    """Relative difference of every array of `a` that `b` has, too.

    Args:
        a: one side's arrays.
        b: the other's.
        share: an array is never measured against less than this share of the largest value in `a`, so that values
            which vanish exactly on one side and are rounding on the other do not count.
    """
    floor = share * max((float(np.abs(values).max()) for values in a.values() if values.size), default=0.0)
    return {name: tensor_difference(values, b[name], floor=floor) for name, values in a.items() if name in b}


def exceeding(measured: Mapping[str, float], limit: float) -> Iterable[tuple[str, float]]:
    """The measurements above a limit, in order."""
    return ((name, value) for name, value in measured.items() if not value <= limit)
