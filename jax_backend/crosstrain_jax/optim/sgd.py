"""Stochastic gradient descent; see `crosstrain.optim.Sgd`."""

import optax

from crosstrain.optim import Hyper, Sgd
from crosstrain_jax.optim.base import Optimizer, Transformation, decay


def sgd(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """optax's trace behind coupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, Sgd)
    if spec.momentum == 0:
        return optax.chain(decay(optimizer))
    return optax.chain(decay(optimizer), optax.trace(hyper.momentum, nesterov=spec.nesterov))
