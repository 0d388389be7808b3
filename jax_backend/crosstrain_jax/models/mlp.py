"""The multi-layer perceptron in flax nnx."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.models.checks import require_floating, require_shape
from crosstrain.models.mlp import MLPConfig
from crosstrain_jax.models.layers import Dropout

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class MLP(nnx.Module):
    """See `MLPConfig`."""

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        pairs = list(zip(config.widths, config.widths[1:], strict=False))
        self.layers = nnx.List([nnx.Linear(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in pairs])
        self.dropouts = nnx.List([Dropout(config.dropout, f"dropouts.{i}") for i in range(len(pairs) - 1)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, ...) -> logits (B, out_features)."""
        require_floating("input", x, jnp.issubdtype(x.dtype, jnp.floating))
        x = x.reshape(len(x), -1)
        require_shape("input", x, ("B", self.config.in_features))
        activation = ACTIVATIONS[self.config.activation]
        for layer, dropout in zip(self.layers, self.dropouts, strict=False):
            x = dropout(activation(layer(x)))
        return self.layers[-1](x)
