"""A normalisation of the JAX engine whose input is a parameter, so that the gradient of the input can be read."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from crosstrain_jax.models import BatchNorm, GroupNorm, LayerNorm, RMSNorm


class NormProbe(nnx.Module):
    """A layer over `x`, shape (B, ..., C)."""

    def __init__(self, layer: Any, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.x = nnx.Param(jnp.zeros(shape))

    def __call__(self) -> Any:
        return self.layer(self.x.get_value())


def batch_norm(shape: tuple[int, ...], *, eps: float, momentum: float) -> NormProbe:
    return NormProbe(BatchNorm(shape[-1], eps=eps, momentum=momentum), shape)


def layer_norm(shape: tuple[int, ...], **options: float) -> NormProbe:
    return NormProbe(LayerNorm(shape[-1], **options), shape)


def group_norm(shape: tuple[int, ...], *, groups: int, **options: float) -> NormProbe:
    return NormProbe(GroupNorm(groups, shape[-1], **options), shape)


def rms_norm(shape: tuple[int, ...], **options: float) -> NormProbe:
    return NormProbe(RMSNorm(shape[-1], **options), shape)
