"""NAdam and RAdam; see `crosstrain.optim.NAdam` and `RAdam`. optax has other definitions of both."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosstrain.optim import Hyper, NAdam, RAdam
from crosstrain_jax.optim.adam import new_moments
from crosstrain_jax.optim.base import Leaves, Optimizer, Transformation, decay, one_minus_power, start_count, zeros

_LONGEST_TABLE = 10_000


class NAdamState(NamedTuple):
    """Moments, and the product of all mu so far."""

    count: jax.Array
    mu_product: jax.Array
    first_moment: Leaves
    second_moment: Leaves


def nadam(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With coupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, NAdam)
    return optax.chain(decay(optimizer), _scale_by_nadam(spec, hyper.momentum))


def radam(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With coupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, RAdam)
    return optax.chain(decay(optimizer), _scale_by_radam(spec, hyper.momentum))


def _scale_by_nadam(spec: NAdam, beta1: Any) -> Transformation:
    betas = (beta1, spec.betas[1])

    def init(params: Leaves) -> NAdamState:
        return NAdamState(start_count(), jnp.ones(()), zeros(params), zeros(params))

    def update(grads: Leaves, state: NAdamState, params: Leaves | None = None) -> tuple[Leaves, NAdamState]:
        count, dtype = state.count + 1, state.mu_product.dtype
        mu, mu_next = (
            beta1 * (1 - 0.5 * jnp.exp(math.log(0.96) * spec.momentum_decay * t.astype(dtype)))
            for t in (count, count + 1)
        )
        product = state.mu_product * mu
        of_gradient, of_moment = (1 - mu) / (1 - product), mu_next / (1 - product * mu_next)

        def direct(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            denominator = jnp.sqrt(v / one_minus_power(betas[1], count, v.dtype)) + spec.eps
            return (of_gradient * g + of_moment * m) / denominator

        first, second = _moments(grads, state.first_moment, state.second_moment, betas)
        directions = tuple(direct(*each) for each in zip(grads, first, second, strict=True))
        return directions, NAdamState(count, product, first, second)

    return Transformation(init, update)


def _scale_by_radam(spec: RAdam, beta1: Any) -> Transformation:
    betas = (beta1, spec.betas[1])

    def update(grads: Leaves, state: optax.ScaleByAdamState, params: Leaves | None = None) -> tuple[Leaves, Any]:
        count = state.count + 1
        first, second = _moments(grads, state.mu, state.nu, betas)

        def direct(m: jax.Array, v: jax.Array) -> jax.Array:
            rectified = _rectification(spec, count, v.dtype)
            adapted = rectified * jnp.sqrt(one_minus_power(betas[1], count, v.dtype)) / (jnp.sqrt(v) + spec.eps)
            return m / one_minus_power(beta1, count, m.dtype) * jnp.where(rectified > 0, adapted, 1.0)

        directions = tuple(direct(m, v) for m, v in zip(first, second, strict=True))
        return directions, optax.ScaleByAdamState(count=count, mu=first, nu=second)

    return Transformation(optax.scale_by_adam().init, update)


def _moments(
    grads: Leaves, first: Leaves, second: Leaves, betas: tuple[Any, Any]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    pairs = [new_moments(g, m, v, betas) for g, m, v in zip(grads, first, second, strict=True)]
    return tuple(m for m, _ in pairs), tuple(v for _, v in pairs)


def _rectification(spec: RAdam, count: jax.Array, dtype: Any) -> jax.Array:
    """`RAdam.rectification` of a traced count.

    rho_t is a small difference of large numbers, from which float32 cannot even tell whether it is above 5. So early
    values are a table from the host; once rho_t has grown, the formula will do.
    """
    beta2 = spec.betas[1]
    last = min(math.ceil(1 / (1 - beta2)), _LONGEST_TABLE)
    table = jnp.asarray(np.array([spec.rectification(update) for update in range(1, last + 1)]), dtype)
    full = 2 / (1 - beta2) - 1
    t = count.astype(dtype)
    length = full - 2 * t / jnp.expm1(-t * (math.log(beta2) if beta2 else -math.inf))
    late = jnp.sqrt((length - 4) * (length - 2) / length) * math.sqrt(full / max((full - 4) * (full - 2), 1e-300))
    return jnp.where(count <= last, table[jnp.minimum(count, last) - 1], jnp.where(length > 5, late, 0.0))
