"""Layers of the paired models whose meaning flax does not give as it is: torch-form BatchNorm, counted dropout."""

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.random import StepRandom, keep_threshold, stable_hash


class BatchNorm(nnx.Module):
    """BatchNorm over (B, H, W) of channels-last images, with statistics of the global batch.

    Definition (Ioffe and Szegedy 2015; torch's form): y = (x - mean) / sqrt(var + eps) weight + bias with the biased
    variance of the (micro-)batch; running = (1 - momentum) running + momentum new, where the new variance is the
    unbiased one, n / (n - 1) var. Statistics are float32 or wider.
    """

    canonical_norm = True

    def __init__(self, channels: int, *, eps: float, momentum: float) -> None:
        self.eps, self.momentum = eps, momentum
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C), in the type of `x`."""
        dtype = self.mean.get_value().dtype
        wide = x.astype(dtype)
        if self.use_running_average:
            mean, var = self.mean.get_value(), self.var.get_value()
        else:
            mean = wide.mean((0, 1, 2))
            var = jnp.square(wide - mean).mean((0, 1, 2))
            n = x.size // x.shape[-1]
            self._update(jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var) * (n / (n - 1)))
        scale = jax.lax.rsqrt(var + self.eps) * self.scale.get_value().astype(dtype)
        return ((wide - mean) * scale + self.bias.get_value().astype(dtype)).astype(x.dtype)

    def _update(self, mean: jax.Array, var: jax.Array) -> None:
        keep = 1.0 - self.momentum
        self.mean.set_value(keep * self.mean.get_value() + self.momentum * mean)
        self.var.set_value(keep * self.var.get_value() + self.momentum * var)


class Dropout(nnx.Module):
    """Inverted dropout whose mask is a function of (seed, step, layer name, example, feature): see `StepRandom`.

    The training step sets `random` before each forward pass.
    """

    def __init__(self, rate: float, name: str) -> None:
        self.rate = rate
        self.layer = stable_hash(name, bits=32)
        self.deterministic = False
        self.random: StepRandom | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, ...) -> (B, ...); the identity in evaluation mode."""
        if self.deterministic or self.rate == 0:
            return x
        if self.random is None:
            raise RuntimeError("dropout needs the randomness of a step: call the model inside a crosstrain step.")
        columns = jnp.arange(x[0].size, dtype=jnp.uint32)
        bits = self.random.bits(jnp.uint32(self.layer), columns)
        keep = (bits < jnp.uint32(keep_threshold(self.rate))).reshape(x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros((), x.dtype))
