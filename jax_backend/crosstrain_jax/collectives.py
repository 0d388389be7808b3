"""Collectives of the JAX engine between processes; within the compiled step the compiler places them."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from crosstrain_jax.precision import to_host


def all_gather(values: jax.Array) -> np.ndarray:
    """A global array on the host of every process."""
    if jax.process_count() == 1 or values.is_fully_replicated:
        return to_host(values)
    return to_host(multihost_utils.process_allgather(values, tiled=True))


def barrier() -> None:
    """Returns once every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("crosstrain")
