"""The flax modules that definition tests train: whatever they are asked about, behind inputs that have gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Inputs(nnx.Module):
    """`model(name, x)` is x plus a parameter `name` of zeros, whose gradient is that of the input."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape)))

    def __call__(self, name: str, x: jax.Array) -> Any:
        return x + getattr(self, name).get_value()
