"""One JAX process of a split sequence: `context_worker.py FOLDER PROCESSES INDEX PORT`. Run by test_context.py.

Four devices; two per process where there are two, so that a sequence spans both.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts
from parity_tests.meshes import cases

import crosstrain as ct
from crosstrain_jax.models.attention import causal_attention

DRAW = np.random.default_rng(0)
SEGMENTS = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1, 2]], np.int32)
INPUTS = [DRAW.normal(size=(2, 8, heads, 4)) for heads in (4, 2, 2, 4)]
WITH_SEGMENTS = {"whole": False, "packed": True}


def attention(mesh: jax.sharding.Mesh, dtype: Any, packed: bool) -> dict[str, jax.Array]:
    """What attention gives, with its gradients, in a step on this mesh."""
    q, k, v, weights = (jnp.asarray(each, dtype) for each in INPUTS)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            out = causal_attention(q, k, v, segments if packed else None)
            return (out * weights).astype(jnp.float64).sum(), out

    places = [jax.device_put(each, jax.NamedSharding(mesh, P(None, "context"))) for each in (q, k, v, SEGMENTS)]
    compiled = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True)).lower(*places).compile()
    (_, out), grads = compiled(*places)
    text = compiled.as_text()
    names = dict(zip(("q", "k", "v"), grads, strict=True)) | {"out": out}
    return names | {"permutes": "collective-permute" in text, "gathers": "all-gather" in text}


def rings() -> dict[str, np.ndarray]:
    """Attention on one device and around a ring of four."""
    results = {}
    with jax.enable_x64(True):
        for devices in (1, 4):
            mesh = ct.Accelerator("jax", mesh=ct.MeshSpec(context=4)).mesh if devices == 4 else _alone()
            for dtype in ("float64", "bfloat16"):
                for kind, packed in WITH_SEGMENTS.items():
                    found = attention(mesh, dtype, packed)
                    results |= {f"{devices}/{dtype}/{kind}/{name}": each for name, each in found.items()}
    return {name: np.asarray(each, np.float64) for name, each in results.items()}


def _alone() -> jax.sharding.Mesh:
    accelerator = ct.Accelerator("jax", mesh=ct.MeshSpec(data=4))
    shape = (1,) * len(accelerator.mesh.axis_names)
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(shape), accelerator.mesh.axis_names)


def trained(layout: cases.Layout) -> dict[str, np.ndarray]:
    """A few steps of the small decoder."""
    case = cases.CASES["gpt"]
    accelerator = cases.accelerator_for("jax", case, layout)
    state = cases.state_for(accelerator, case, "adamw")
    loader = accelerator.loader(cases.data_of(case), batch_size=cases.BATCH, shuffle=True)
    batch = next(iter(loader))
    shard = batch["tokens"].addressable_shards[0].data.shape
    predict = accelerator.predict_step(cases.logits_fn)
    results = cases.train(accelerator, state, case, 3, loader) | cases.arrays_of(state)
    return results | {"shard": np.array(shard), "prediction": predict(state, batch)["prediction"]}


def main(folder: str, processes: int, index: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", 4 // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    chosen = [cases.Layout(name="context4", context=4), cases.LAYOUTS["data2-context2"]]
    if processes == 1:
        chosen.append(cases.Layout(name="data4", data=4))
    results = {f"{each.name}/{name}": values for each in chosen for name, values in trained(each).items()}
    if processes == 1:
        results |= {f"ring/{name}": values for name, values in rings().items()}
    ct.Accelerator("jax").wait_for_everyone()
    layouts.leave(Path(folder), index, results)


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
