"""The global norm of gradients, and clipping by it."""

import jax
import jax.numpy as jnp
import optax

from crosstrain_jax.optim.base import Leaves


def global_norm(grads: Leaves) -> jax.Array:
    """L2 norm over all gradients together."""
    return optax.tree.norm(grads)


def clip_by_global_norm(grads: Leaves, norm: jax.Array, clip_norm: float) -> Leaves:
    """g = g min(1, clip_norm / norm) (Pascanu et al. 2013)."""
    scale = jnp.minimum(clip_norm / norm, 1.0)
    return tuple(grad * scale.astype(grad.dtype) for grad in grads)
