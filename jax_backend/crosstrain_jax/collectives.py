"""Collectives of the JAX engine between processes; within the compiled step the compiler places them."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from crosstrain_jax.precision import to_host


def all_gather(values: np.ndarray) -> np.ndarray:
    """Values of every process, equal in shape, in the order of the processes; shape (processes, ...)."""
    return np.asarray(multihost_utils.process_allgather(values))


def read(values: jax.Array) -> np.ndarray:
    """An array on the host: one that is split over processes whole, on every process."""
    if values.is_fully_addressable or values.is_fully_replicated:
        return to_host(values)
    return to_host(multihost_utils.process_allgather(values, tiled=True))
