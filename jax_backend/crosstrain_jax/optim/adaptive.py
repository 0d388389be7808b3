"""RMSprop and Adagrad; see `crosstrain.optim.RmsProp` and `Adagrad`. optax's Adagrad has its eps in the root."""

from typing import NamedTuple

import jax.numpy as jnp
import optax

from crosstrain.optim import Adagrad, Hyper, RmsProp
from crosstrain_jax.optim.base import Leaves, Optimizer, Transformation, decay, zeros


class AdagradState(NamedTuple):
    """Sums of squared gradients."""

    sum_of_squares: Leaves


def rmsprop(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With coupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, RmsProp)
    scale = optax.scale_by_rms(spec.alpha, eps=spec.eps, eps_in_sqrt=False)
    if spec.momentum == 0:
        return optax.chain(decay(optimizer), scale)
    return optax.chain(decay(optimizer), scale, optax.trace(hyper.momentum))


def adagrad(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With coupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, Adagrad)
    return optax.chain(decay(optimizer), _scale_by_sum_of_squares(spec.eps))


def _scale_by_sum_of_squares(eps: float) -> Transformation:
    def init(params: Leaves) -> AdagradState:
        return AdagradState(zeros(params))

    def update(grads: Leaves, state: AdagradState, params: Leaves | None = None) -> tuple[Leaves, AdagradState]:
        sums = tuple(s + jnp.square(g) for g, s in zip(grads, state.sum_of_squares, strict=True))
        directions = tuple(g / (jnp.sqrt(s) + eps) for g, s in zip(grads, sums, strict=True))
        return directions, AdagradState(sums)

    return Transformation(init, update)
