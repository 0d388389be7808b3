"""One JAX process of a pipeline: `pipeline_worker.py WHAT FOLDER PROCESSES INDEX PORT`. Run by test_pipeline.py.

Four devices; two per process where there are two, so that each process has a stage. WHAT is `programs`, which only
compiles, or `trained`.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts
from parity_tests.meshes import cases

import crosstrain as ct
from crosstrain.planning import Job, Topology, plan
from crosstrain.planning.formulas import expected
from crosstrain.step import StepOptions

STEPS, BATCH = 2, 24
ALONE, PIPELINE = cases.Layout(name="data4", data=4), cases.LAYOUTS["data2-pipeline2"]
CASE = cases.CASES["gpt"]
LARGER = ct.models.GPTConfig(vocab_size=64, dim=64, n_layers=8, n_heads=8, max_seq_len=16)


def trained(layout: cases.Layout, micro_batches: int, precision: str = "fp64") -> dict[str, np.ndarray]:
    """A few steps, gradients by hand, evaluation and prediction, with segments; the last micro-batches are padding."""
    case = dataclasses.replace(CASE, options={"accumulate_steps": micro_batches, "grad_norm": True})
    accelerator = cases.accelerator_for("jax", case, layout, precision)
    state = cases.state_for(accelerator, case, "adamw")
    data = {name: values[:40] for name, values in cases.data_of(cases.CASES["gpt-packed"]).items()}
    loader = accelerator.loader(data, batch_size=BATCH)
    results = cases.train(accelerator, state, case, STEPS, loader)
    batch = next(iter(loader))
    metrics, gradients = accelerator.value_and_grad(cases.loss_fn)(state, batch)
    results |= {f"gradient/{name}": each for name, each in gradients.to_host().items()}
    evaluated = accelerator.eval_step(cases.loss_fn)(state, batch)
    results["loss"] = np.array([*results["loss"], metrics["loss"], evaluated["loss"]])
    prediction = accelerator.predict_step(cases.logits_fn)(state, batch)["prediction"]
    return results | cases.arrays_of(state) | {"prediction": prediction}


def programs() -> dict[str, np.ndarray]:
    """What a training step holds and sends, by the mesh."""
    facts: dict[str, Any] = {}
    batch = {name: np.zeros((16, 16), np.int64) for name in ("tokens", "label")}
    options = StepOptions(accumulate_steps=8)
    job = Job(model=LARGER, loss_fn=cases.loss_fn, batch=batch, optimizer=ct.adamw(1e-3), options=options)
    measured = plan(job, Topology.parse("cpu:4"), ct.MeshSpec(data=1, pipeline=4), "jax").measured
    assert measured.memory is not None
    blocks = sum(np.prod(p.shape) for p in measured.plan.params.values() if p.stage is not None)
    facts |= {"state": measured.memory.state, "local": measured.plan.local_size, "all": measured.plan.size}
    facts |= {"blocks": blocks}
    given = {"compute_bytes": 4, "gradient_bytes": 4, "micro_batches": 8, "one_program": True}
    formula = expected(measured.plan, tokens=2 * 16, **given)
    for kind in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        found = [each for each in measured.collectives if each.kind == kind]
        facts[f"{kind}/bytes"] = sum(each.operand_bytes for each in found)
        facts[f"{kind}/counts"] = sorted({each.count for each in found})
        facts[f"{kind}/formula"] = sum(each.operand_bytes for each in formula if each.kind == kind)
        facts[f"{kind}/axes"] = sorted({"+".join(each.axes) for each in found})
    return {name: np.array(each) for name, each in facts.items()}


def main(what: str, folder: str, processes: int, index: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", 4 // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    found = {"programs": programs()} if what == "programs" else {"pipeline/3": trained(PIPELINE, 3)}
    if what == "trained" and processes == 1:
        for micro_batches, precision in ((1, "fp64"), (2, "bf16")):
            found[f"pipeline/{micro_batches}"] = trained(PIPELINE, micro_batches, precision)
            found[f"alone/{micro_batches}"] = trained(ALONE, micro_batches, precision)
        found["alone/3"] = trained(ALONE, 3)
    ct.Accelerator("jax").wait_for_everyone()
    layouts.leave(Path(folder), index, {f"{k}/{name}": v for k, each in found.items() for name, v in each.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(argument) for argument in sys.argv[3:]))
