"""A layer of the JAX engine whose input is a parameter, so that the gradient of the input can be read."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.models.gpt import GPTConfig
from crosstrain_jax.models import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from crosstrain_jax.models.experts import Mixture
from crosstrain_jax.models.gpt import FeedForward
from crosstrain_jax.models.mlp import ACTIVATIONS


class LayerProbe(nnx.Module):
    """A layer over `x`, shape (B, ..., C)."""

    def __init__(self, layer: Any, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.x = nnx.Param(jnp.zeros(shape))

    def __call__(self) -> Any:
        return self.layer(self.x.get_value())


def batch_norm(shape: tuple[int, ...], *, eps: float, momentum: float) -> LayerProbe:
    return LayerProbe(BatchNorm(shape[-1], eps=eps, momentum=momentum), shape)


def layer_norm(shape: tuple[int, ...], **options: float) -> LayerProbe:
    return LayerProbe(LayerNorm(shape[-1], **options), shape)


def group_norm(shape: tuple[int, ...], *, groups: int, **options: float) -> LayerProbe:
    return LayerProbe(GroupNorm(groups, shape[-1], **options), shape)


def rms_norm(shape: tuple[int, ...], **options: float) -> LayerProbe:
    return LayerProbe(RMSNorm(shape[-1], **options), shape)


def activation(shape: tuple[int, ...], kind: str) -> LayerProbe:
    return LayerProbe(jax.nn.silu if kind == "silu" else ACTIVATIONS[kind], shape)


def swiglu(shape: tuple[int, ...], config: GPTConfig) -> LayerProbe:
    return LayerProbe(FeedForward(config, rngs=nnx.Rngs(0)), shape)


def mixture(shape: tuple[int, ...], config: GPTConfig) -> LayerProbe:
    assert config.experts is not None
    return LayerProbe(Mixture(config.experts, config, rngs=nnx.Rngs(0)), shape)
