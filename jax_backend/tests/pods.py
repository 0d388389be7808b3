"""Steps compiled for TPU pods that are not there, as facts in JSON on the last line. Run by test_pods.py."""

import json
from typing import Any

import numpy as np
from planned import facts, job

import crosstrain as ct
from crosstrain.planning import Topology, plan
from crosstrain_jax.planning import _devices
from crosstrain_jax.sharding import batch_parts, build_mesh


def sent(mesh: ct.MeshSpec, reduce_dtype: str | None) -> dict[str, Any]:
    here = job(precision=ct.Precision(reduce_dtype=reduce_dtype))
    measured = plan(here, Topology.parse("v5e:2x4"), mesh, "jax").measured
    return {"parameters": measured.plan.size, "collectives": [facts(each) for each in measured.collectives]}


PODS = [
    ("v5e:16x16", 1, {}),
    ("v5e:16x16", 1, {"fsdp": 64, "tensor": 4}),
    ("v5p:4x4x4", 1, {"fsdp": 32, "tensor": 2}),
    ("v5p:4x4x4", 1, {"fsdp": 16, "context": 2}),
    ("v6e:8x8", 1, {"fsdp": 8, "tensor": 2}),
    ("v5e:16x16", 2, {"fsdp": 64, "tensor": 4}),
    ("v5e:16x16", 2, {"data": 1, "fsdp": 128, "pipeline": 4}),
    ("v5p:4x4x4", 2, {"fsdp": 32, "tensor": 2}),
]


def placed(topology: str, slices: int, axes: dict[str, int]) -> dict[str, Any]:
    """Which parts of a batch the processes hold, and where along `data` and `pipeline` each slice's devices are."""
    devices = _devices(Topology.parse(topology, slices))
    mesh = build_mesh(devices, ct.MeshSpec(**axes).resolve(len(devices)))
    parts, count = batch_parts(mesh)
    places: dict[int, set[Any]] = {}
    for place, device in np.ndenumerate(mesh.devices):
        outer = tuple(place[mesh.axis_names.index(axis)] for axis in ("data", "pipeline"))
        places.setdefault(getattr(device, "slice_index", 0), set()).add(outer)
    sets = set(parts.values())
    shared = len(set.union(*places.values())) != sum(map(len, places.values()))
    return {"disjoint": sum(map(len, sets)) == count, "process 0": parts[0], "slices share": shared}


def across() -> dict[str, Any]:
    """A step on two slices: which axes send what."""
    measured = plan(job(), Topology.parse("v5e:2x4", 2), ct.MeshSpec(fsdp=8), "jax").measured
    return {"notes": measured.notes, "collectives": [facts(each) for each in measured.collectives]}


def main() -> dict[str, Any]:
    meshes = {"data": ct.MeshSpec(data=8), "fsdp": ct.MeshSpec(data=1, fsdp=8)}
    found = {f"{name}/{kind}": sent(mesh, kind) for name, mesh in meshes.items() for kind in (None, "bf16")}
    return found | {"pods": [placed(*pod) for pod in PODS], "across": across()}


if __name__ == "__main__":
    print(json.dumps(main()))
