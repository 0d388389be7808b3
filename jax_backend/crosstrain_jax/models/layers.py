"""Layers whose meaning flax does not give as it is: normalisations as crosstrain defines them, counted dropout."""

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.models.checks import require_groups, require_several
from crosstrain.random import StepRandom, keep_threshold, stable_hash
from crosstrain_jax.precision import wide_dtype


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
            require_several(n)
            self._update(jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var) * (n / (n - 1)))
        scale = jax.lax.rsqrt(var + self.eps) * self.scale.get_value().astype(dtype)
        return ((wide - mean) * scale + self.bias.get_value().astype(dtype)).astype(x.dtype)

    def _update(self, mean: jax.Array, var: jax.Array) -> None:
        keep = 1.0 - self.momentum
        self.mean.set_value(keep * self.mean.get_value() + self.momentum * mean)
        self.var.set_value(keep * self.var.get_value() + self.momentum * var)


class LayerNorm(nnx.Module):
    """LayerNorm over the last dimension.

    Definition (Ba, Kiros and Hinton 2016): y = (x - mean) / sqrt(var + eps) weight + bias, where var is the biased
    variance, the mean of (x - mean)^2. Statistics are float32 or wider.
    """

    canonical_norm = True

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., dim) -> (..., dim), in the type of `x`."""
        y = _standardise(x.astype(wide_dtype(x)), (-1,), self.eps)
        return (y * self.scale.get_value().astype(y.dtype) + self.bias.get_value().astype(y.dtype)).astype(x.dtype)


class GroupNorm(nnx.Module):
    """GroupNorm of channels-last arrays.

    Definition (Wu and He 2018): y = (x - mean) / sqrt(var + eps) weight + bias, where mean and biased variance are
    those of one example and one group, `channels / groups` neighbouring channels at all positions; weight and bias
    belong to channels. Statistics are float32 or wider.

    Raises:
        ConfigError: `groups` does not divide `channels`.
    """

    canonical_norm = True

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        require_groups(groups, channels)
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, ..., C) -> (B, ..., C), in the type of `x`."""
        grouped = x.astype(wide_dtype(x)).reshape(*x.shape[:-1], self.groups, -1)
        y = _standardise(grouped, (*range(1, x.ndim - 1), x.ndim), self.eps).reshape(x.shape)
        return (y * self.scale.get_value().astype(y.dtype) + self.bias.get_value().astype(y.dtype)).astype(x.dtype)


def _standardise(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    # Two passes: the mean of squares minus the squared mean loses every digit where the mean is large.
    centred = x - x.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)


class RMSNorm(nnx.Module):
    """RMSNorm over the last dimension.

    Definition (Zhang and Sennrich 2019; Llama's order): y = x / sqrt(mean(x^2) + eps), in float32 or wider, cast back,
    then times weight.
    """

    canonical_norm = True

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., dim) -> (..., dim), in the type of `x`."""
        wide = x.astype(wide_dtype(x))
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * self.scale.get_value()


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
