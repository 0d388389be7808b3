"""Adam and AdamW; see `crosstrain.optim.Adam`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from crosstrain.optim import Adam, Hyper
from crosstrain_jax.optim.base import Leaves, Optimizer, Transformation, decay, one_minus_power


def adam(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With coupled decay."""
    return optax.chain(decay(optimizer), scale_by_adam(optimizer.spec, hyper.momentum))


def adamw(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With decoupled decay."""
    return optax.chain(scale_by_adam(optimizer.spec, hyper.momentum), decay(optimizer))


def scale_by_adam(spec: Any, beta1: Any) -> Transformation:
    """`optax.scale_by_adam`, whose state it keeps, with a 1 - beta^t that float32 does not spoil.

    optax subtracts in float32, where 1 - 0.999^t loses three digits to cancellation: 1e-5 of an update, a hundred times
    the rounding of the rest.
    """
    assert isinstance(spec, Adam)
    betas = (beta1, spec.betas[1])

    def update(grads: Leaves, state: optax.ScaleByAdamState, params: Leaves | None = None) -> tuple[Leaves, Any]:
        count = state.count + 1
        pairs = [new_moments(g, m, v, betas) for g, m, v in zip(grads, state.mu, state.nu, strict=True)]
        directions = tuple(direction(m, v, count, betas, spec.eps) for m, v in pairs)
        mu, nu = (tuple(pair[index] for pair in pairs) for index in (0, 1))
        return directions, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return Transformation(optax.scale_by_adam().init, update)


def new_moments(g: jax.Array, m: jax.Array, v: jax.Array, betas: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    """b1 m + (1 - b1) g and b2 v + (1 - b2) g^2."""
    b1, b2 = betas
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * jnp.square(g)


def direction(m: jax.Array, v: jax.Array, count: jax.Array, betas: tuple[Any, Any], eps: float) -> jax.Array:
    """(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)."""
    b1, b2 = betas
    return m / one_minus_power(b1, count, m.dtype) / (jnp.sqrt(v / one_minus_power(b2, count, v.dtype)) + eps)
