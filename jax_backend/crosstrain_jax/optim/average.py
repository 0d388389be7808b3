"""Averages of the weights; see `crosstrain.optim.Averaging`."""

from typing import Any

from crosstrain_jax.optim.base import Leaves


def update_average(averages: Leaves, params: Leaves, weight: Any) -> Leaves:
    """a = a + weight (p - a); nothing where no average is kept."""
    return tuple(a + weight.astype(a.dtype) * (p - a) for a, p in zip(averages, params, strict=False))
