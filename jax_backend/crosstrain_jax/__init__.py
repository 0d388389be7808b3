"""The JAX engine of crosstrain: flax nnx, jit over a mesh, donated flat leaves, optax. Imports core, never torch."""

from crosstrain_jax.accelerator import JaxAccelerator
from crosstrain_jax.ops import JaxOps
from crosstrain_jax.state import JaxState

__all__ = ["JaxAccelerator", "JaxOps", "JaxState"]
