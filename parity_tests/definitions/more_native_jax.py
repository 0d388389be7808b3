"""The flax modules that definition tests train: whatever they are asked about, behind inputs that have gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain_jax import models
from crosstrain_jax.models.mlp import ACTIVATIONS


class Inputs(nnx.Module):
    """`model(name, x)` is x plus a parameter `name` of zeros, whose gradient is that of the input."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape)))

    def __call__(self, name: str, x: jax.Array) -> Any:
        return x + getattr(self, name).get_value()


class Layer(nnx.Module):
    """norm(x + 0) (slope + 0), where both zeros are parameters: the gradient of `slope` is the output of the layer."""

    def __init__(self, kind: str, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
        self.x, self.slope = nnx.Param(jnp.zeros(shape)), nnx.Param(jnp.zeros(shape))
        self.norm = _layer(kind, shape[-1], settings)

    def __call__(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        return self.norm(x + self.x.get_value()) * (slope + self.slope.get_value())


def _layer(kind: str, channels: int, settings: dict[str, Any]) -> Any:
    if kind == "rms_norm":
        return models.RMSNorm(channels, **settings)
    if kind == "layer_norm":
        return models.LayerNorm(channels, **settings)
    if kind == "group_norm":
        return models.GroupNorm(channels=channels, **settings)
    return models.BatchNorm(channels, **settings) if kind == "batch_norm" else ACTIVATIONS[kind]
