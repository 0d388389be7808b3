"""Compiled programs on eight virtual devices, as facts in JSON on standard output. Run by test_planning.py."""

import dataclasses
import functools
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import crosstrain as ct
from crosstrain.planning import Job, Topology, plan
from crosstrain_jax.hlo import exchanges
from crosstrain_jax.planning import _devices, trace_step
from crosstrain_jax.sharding import build_mesh

CONFIG = ct.models.GPTConfig(vocab_size=64, dim=32, n_layers=2, n_heads=8, max_seq_len=16)
MIXTURE = dataclasses.replace(CONFIG, experts=ct.Experts(number=4))
MESHES = {
    "fsdp": (CONFIG, ct.MeshSpec(data=1, fsdp=8)),
    "data": (CONFIG, ct.MeshSpec(data=8)),
    "tensor": (CONFIG, ct.MeshSpec(data=1, tensor=8)),
    "expert": (MIXTURE, ct.MeshSpec(data=2, fsdp=2, expert=2)),
}
TRIPS = 5


def loss_fn(model: Any, batch: Any, ops: Any) -> Any:
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


def job(model: Any = CONFIG, **options: Any) -> Job:
    batch = {name: np.zeros((16, 16), np.int64) for name in ("tokens", "labels")}
    return Job(model=model, loss_fn=loss_fn, batch=batch, optimizer=ct.adamw(1e-3), **options)


def known() -> dict[str, Any]:
    """Programs whose collectives are written out: name -> what was read."""
    sizes = ct.MeshSpec(data=2, fsdp=1, tensor=4).resolve(8)
    mesh = build_mesh(_devices(Topology.parse("cpu:8")), sizes)
    ring = [(i, (i + 1) % 4) for i in range(4)]
    programs = {
        "sum over tensor": lambda x: jax.lax.psum(x, "tensor"),
        "sum over data": lambda x: jax.lax.psum(x, "data"),
        "sum over both": lambda x: jax.lax.psum(x, ("data", "tensor")),
        "gather": lambda x: jax.lax.all_gather(x, "tensor", tiled=True),
        "scatter": lambda x: jax.lax.psum_scatter(x, "tensor", tiled=True),
        "swap": lambda x: jax.lax.all_to_all(x, "tensor", 0, 0, tiled=True),
        "ring": lambda x: jax.lax.ppermute(x, "tensor", ring),
        "loop": lambda x: jax.lax.fori_loop(0, TRIPS, lambda _, y: jax.lax.psum(y, "tensor") * 0.1, x),
        "local": lambda x: x * 2.0,
    }
    values = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=NamedSharding(mesh, P(("data", "tensor"))))
    found = {}
    for name, program in programs.items():
        mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=P(("data", "tensor")), check_vma=False)
        compiled = jax.jit(mapped(program, out_specs=P(("data", "tensor")))).lower(values).compile()
        read = exchanges(compiled.as_text(), dict(mesh.shape))
        found[name] = {"complete": read.complete, "collectives": [facts(each) for each in read.collectives]}
    return found


def facts(collective: Any) -> dict[str, Any]:
    names = ("kind", "axes", "group_size", "count", "operand_bytes", "sent_bytes")
    return {name: getattr(collective, name) for name in names}


def planned() -> dict[str, Any]:
    """Training steps: what a plan says of each mesh."""
    found = {}
    for name, (config, mesh) in MESHES.items():
        measured = plan(job(config), Topology.parse("cpu:8"), mesh, "jax").measured
        assert measured.memory is not None
        found[name] = {
            "state": measured.memory.state,
            "flops": measured.flops,
            "parameters": measured.plan.size,
            "collectives": [facts(each) for each in measured.collectives],
        }
    return found


def estimated() -> dict[str, Any]:
    """What a device holds of a state, and what an estimate says: mesh and optimizer -> the pair."""
    found = {}
    pipeline = CONFIG, ct.MeshSpec(data=1, fsdp=2, tensor=2, pipeline=2)
    for name, (config, mesh) in (MESHES | {"pipeline": pipeline}).items():
        for optimizer in (ct.adamw(1e-3), ct.adafactor(1e-3)):
            accelerator = ct.Accelerator("jax", mesh=mesh)
            state = accelerator.prepare(ct.models.build("gpt", config, accelerator), optimizer, average=ct.ema(0.9))
            estimate = ct.estimate_memory(config, optimizer, backend="jax", mesh=mesh, average=ct.ema(0.9))
            device = dataclasses.replace(estimate.device, gradients=0)  # between steps
            pair = state.device_bytes, device
            found[f"{name}, {type(optimizer).__name__}"] = tuple(dataclasses.asdict(each) for each in pair)
    return found


def same_program() -> bool:
    """Whether the program of shapes is the one that training runs, to the letter."""
    mesh = ct.MeshSpec(data=1, fsdp=4, tensor=2)
    accelerator = ct.Accelerator("jax", mesh=mesh)
    state = accelerator.prepare(ct.models.build("gpt", CONFIG, accelerator), ct.adamw(1e-3), average=ct.ema(0.9))
    step = accelerator.train_step(loss_fn, clip_norm=1.0)
    here = job(average=ct.ema(0.9), options=ct.step.StepOptions(clip_norm=1.0))
    trained = step._run.trace(state, accelerator.to_device(here.batch))
    abstract, _ = trace_step(here, accelerator.mesh, accelerator.mesh_sizes)
    return trained.lower().as_text() == abstract.lower().as_text()


def summed_by_type(reduce_dtype: str | None) -> dict[str, int]:
    """Numbers that the sums over devices are written for, by type, before XLA: its CPU compiler widens bfloat16."""
    sizes = MESHES["data"][1].resolve(8)
    mesh = build_mesh(_devices(Topology.parse("cpu:8")), sizes)
    here = job(precision=ct.Precision(reduce_dtype=reduce_dtype))
    text = trace_step(here, mesh, sizes)[0].lower().as_text()
    found: dict[str, int] = {}
    sums = r"stablehlo\.all_reduce.*?\}\) : \(.*?\) -> tensor<((?:\d+x)*)(\w+)>"
    for shape, kind in re.findall(sums, text, re.DOTALL):
        found[kind] = found.get(kind, 0) + math.prod(int(size) for size in shape.split("x") if size)
    return found


if __name__ == "__main__":
    results = {"known": known(), "planned": planned(), "same program": same_program(), "estimated": estimated()}
    print(json.dumps(results | {"narrow": summed_by_type("bf16"), "plain": summed_by_type(None)}))
