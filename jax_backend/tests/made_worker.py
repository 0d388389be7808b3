"""Eight devices: `made_worker.py FILE.npz` writes what a model made by a function holds, beside one made whole."""

import sys

import jax
import numpy as np
from flax import nnx

import crosstrain as ct

jax.config.update("jax_num_cpu_devices", 8)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(32, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.down = nnx.Linear(64, 32, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.relu(self.norm(self.up(x))))


def make() -> nnx.Module:
    return Net(nnx.Rngs(3))


def loss_fn(model, batch, ops):
    return ops.mse(model(batch["x"]), batch["x"])


accelerator = ct.Accelerator("jax", mesh=ct.MeshSpec(data=2, fsdp=4))
whole = accelerator.prepare(make(), ct.adamw(1e-2)).snapshot()

made = accelerator._make_model(make)
seen = [leaf for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)) if leaf.ndim > 1 and leaf.is_fully_replicated]
state = accelerator.prepare(make, ct.adamw(1e-2))
snapshot = state.snapshot()
kernels = [param.addressable_shards[0].data.shape for param in state.params if param.ndim == 2]
batch = {"x": np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)}
step = accelerator.train_step(loss_fn)
losses = [step(state, batch)["loss"] for _ in range(20)]
np.savez(
    sys.argv[1],
    local=sorted(kernels)[::-1],
    learns=losses[-1] < 0.5 * losses[0],
    **{"leaves of the made model on one device": len(seen)},
    **{f"whole/{name}": values for name, values in {**whole.params, **whole.buffers}.items()},
    **{f"made/{name}": values for name, values in {**snapshot.params, **snapshot.buffers}.items()},
)
