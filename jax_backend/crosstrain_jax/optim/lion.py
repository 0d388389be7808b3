"""Lion; see `crosstrain.optim.Lion`."""

import optax

from crosstrain.optim import Hyper, Lion
from crosstrain_jax.optim.base import Optimizer, Transformation, decay


def lion(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """optax's, with decoupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, Lion)
    return optax.chain(optax.scale_by_lion(hyper.momentum, spec.betas[1]), decay(optimizer))
