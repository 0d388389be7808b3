"""A user's own flax model: layers of flax, nothing of crosstrain."""

import jax
import numpy as np
import optax
from flax import nnx


class Small(nnx.Module):
    """Convolution, BatchNorm, LayerNorm, dropout and a linear head on images (B, 8, 8, 1)."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(256, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv(image)))
        return self.head(self.dropout(self.layer_norm(x.reshape(len(x), -1))))


class Biased(nnx.Module):
    """Layers whose biases have names of their own."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=rngs)
        self.recurrent = nnx.OptimizedLSTMCell(4, 4, rngs=rngs)
        self.gated = nnx.GRUCell(4, 4, rngs=rngs)
        self.out_bias = nnx.Param(np.zeros(4))


class Tokens(nnx.Module):
    """Embedding, LayerNorm and a linear head on tokens (B, T)."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(32, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 32, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.norm(self.embedding(tokens)))


class Linear(nnx.Module):
    """A linear layer, and a parameter that nothing uses."""

    def __init__(self) -> None:
        self.head = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
        self.unused = nnx.Param(jax.numpy.ones(3))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.head(image.reshape(len(image), -1))


def leaf(state: object) -> jax.Array:
    """An array of the state as the device has it now."""
    return state.params[0]


def is_gone(old: jax.Array, values: np.ndarray) -> bool:
    """Whether an array from before a step no longer holds what it held then."""
    return old.is_deleted()


def weights(values: np.ndarray) -> jax.Array:
    """As a state dict of the framework holds them."""
    return jax.numpy.asarray(values, jax.numpy.bfloat16)


def optimizer() -> object:
    return optax.sgd(0.1)
