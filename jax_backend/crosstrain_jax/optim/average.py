"""Averages of the weights; see `crosstrain.optim.Averaging`."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

from crosstrain_jax.optim.base import Leaves


def update_average(averages: Leaves, params: Leaves, weight: Any) -> Leaves:
    """a = a + weight (p - a); nothing where no average is kept."""
    return tuple(a + weight.astype(a.dtype) * (p - a) for a, p in zip(averages, params, strict=False))


def pull(params: Leaves, averages: Leaves, weight: Any, held: Collection[int]) -> Leaves:
    """p = a where the weight is above 0, but for the parameters at the places `held`."""
    pairs = enumerate(zip(params, averages, strict=True))
    return tuple(p if place in held else jnp.where(weight > 0, a, p) for place, (p, a) in pairs)
