"""Initialisers: float64 arrays of (seed, canonical name), the same on both engines."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crosstrain import random


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """How a parameter starts.

    Attributes:
        kind: `normal` (mean 0, standard deviation `scale`), `uniform` (in [-scale, scale)), or `constant` (`scale`).
        scale: see `kind`.
    """

    kind: Literal["normal", "uniform", "constant"]
    scale: float

    def __call__(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The initial value of parameter `name` in a run with `seed`; float64, canonical layout."""
        if self.kind == "constant":
            return np.full(shape, self.scale, dtype=np.float64)
        if self.kind == "normal":
            return random.normal(seed, f"init/{name}", shape) * self.scale
        return (2.0 * random.uniform(seed, f"init/{name}", shape) - 1.0) * self.scale


def constant(value: float) -> Init:
    """The same number everywhere."""
    return Init(kind="constant", scale=value)


def normal(std: float) -> Init:
    """Normal with mean 0 and standard deviation `std`."""
    return Init(kind="normal", scale=std)


def fan_in_uniform(fan_in: int) -> Init:
    """Uniform in +-1/sqrt(fan_in): what torch gives Linear and Conv (kaiming_uniform with a = sqrt(5))."""
    return Init(kind="uniform", scale=1.0 / math.sqrt(fan_in))
