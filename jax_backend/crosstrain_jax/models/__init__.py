"""Paired models in flax nnx, and how they receive their initial weights."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crosstrain.models.spec import ModelConfig, built_config
from crosstrain_jax import naming
from crosstrain_jax.models.gpt import GPT
from crosstrain_jax.models.layers import BatchNorm, Dropout, GroupNorm, LayerNorm, RMSNorm
from crosstrain_jax.models.mlp import MLP
from crosstrain_jax.models.resnet9 import ResNet9
from crosstrain_jax.precision import unpin_types

MODELS: dict[str, Callable[..., nnx.Module]] = {"mlp": MLP, "resnet9": ResNet9, "gpt": GPT}


def build(
    config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: jnp.dtype, *, on_host: bool = False
) -> nnx.Module:
    """The module of `config` with `weights` (canonical names and layout), in `dtype`.

    `on_host` leaves them there, for models that no device is to hold whole.
    """

    def make() -> nnx.Module:
        return MODELS[config.kind](config, rngs=nnx.Rngs(0))

    # Only shapes are wanted of the parameters: drawing flax's own values compiles a program for every one of them.
    model = nnx.eval_shape(make)
    nnx.update(model, jax.jit(lambda: nnx.state(make(), nnx.Not(nnx.Param)))())
    unpin_types(model)
    params = nnx.state(model, nnx.Param)
    for leaf, (_, variable) in zip(naming.leaves(model, nnx.Param), nnx.to_flat_state(params), strict=True):
        values = leaf.from_canonical(weights[leaf.name])
        variable.set_value(np.asarray(values, dtype) if on_host else jnp.asarray(values, dtype))
    nnx.update(model, params)
    return model


def config_of(model: nnx.Module) -> ModelConfig | None:
    """The config of a module that `build` made; None for any other."""
    return built_config(model, MODELS)


__all__ = [
    "GPT",
    "MLP",
    "MODELS",
    "BatchNorm",
    "Dropout",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "ResNet9",
    "build",
    "config_of",
]
