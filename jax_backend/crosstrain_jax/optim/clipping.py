"""The global norm of gradients, and clipping; see `crosstrain.optim.Clipping`."""

import jax
import jax.numpy as jnp
import optax

from crosstrain.optim import Clipping
from crosstrain_jax.optim.base import Leaves


def global_norm(grads: Leaves) -> jax.Array:
    """L2 norm over all gradients together."""
    return optax.tree.norm(grads)


def clip(grads: Leaves, clipping: Clipping, norm: jax.Array | None = None) -> Leaves:
    """Gradients within the limits; `norm` is their global norm where it is known."""
    if clipping.value is not None:
        return tuple(jnp.clip(grad, -clipping.value, clipping.value) for grad in grads)
    if clipping.norm is None:
        return grads
    scale = jnp.minimum(clipping.norm / (global_norm(grads) if norm is None else norm), 1.0)
    return tuple(grad * scale.astype(grad.dtype) for grad in grads)
