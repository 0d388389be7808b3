"""LAMB; see `crosstrain.optim.Lamb`."""

import optax

from crosstrain.optim import Hyper
from crosstrain_jax.optim.adam import scale_by_adam
from crosstrain_jax.optim.base import Optimizer, Transformation, decay


def lamb(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """AdamW's direction, then optax's trust ratio."""
    direction = scale_by_adam(optimizer.spec, hyper.momentum)
    return optax.chain(direction, decay(optimizer), optax.scale_by_trust_ratio())
