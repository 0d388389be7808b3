"""Four devices on two cores: `threads_worker.py` runs many collectives at once, and prints whether all came to numbers.

`threads_worker.py late` asks for the devices before there is an accelerator, and does no more.
"""

import logging
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import crosstrain as ct

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
logging.basicConfig()
jax.config.update("jax_num_cpu_devices", 4)
if sys.argv[1:] == ["late"]:
    jax.devices()
accelerator = ct.Accelerator("jax", mesh=ct.MeshSpec(data=2, tensor=2))
if sys.argv[1:] == ["late"]:
    sys.exit()
axes = ("data", "tensor", ("data", "tensor"))


def many(values: list[jax.Array]) -> list[jax.Array]:
    """Chains that do not depend on each other, in which XLA runs collectives in the order it likes."""
    found = []
    for index, x in enumerate(values):
        y = jax.lax.psum(jnp.sin(x) @ x, axes[index % 3])
        found.append(jax.lax.psum(jnp.tanh(y @ x), axes[(index + 1) % 3]))
    return found


run = jax.jit(jax.shard_map(many, mesh=accelerator.mesh, in_specs=P(), out_specs=P(), check_vma=False))
values = [jnp.full((64, 64), float(index)) for index in range(24)]
for _ in range(1000):
    found = run(values)
print(all(np.isfinite(each).all() for each in found))
