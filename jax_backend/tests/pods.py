"""Steps compiled for TPU pods that are not there, as facts in JSON on the last line. Run by test_pods.py."""

import json
from typing import Any

from planned import facts, job

import crosstrain as ct
from crosstrain.planning import Topology, plan


def sent(mesh: ct.MeshSpec, reduce_dtype: str | None) -> dict[str, Any]:
    here = job(precision=ct.Precision(reduce_dtype=reduce_dtype))
    measured = plan(here, Topology.parse("v5e:2x4"), mesh, "jax").measured
    return {"parameters": measured.plan.size, "collectives": [facts(each) for each in measured.collectives]}


def main() -> dict[str, Any]:
    meshes = {"data": ct.MeshSpec(data=8), "fsdp": ct.MeshSpec(data=1, fsdp=8)}
    return {f"{name}/{kind}": sent(mesh, kind) for name, mesh in meshes.items() for kind in (None, "bf16")}


if __name__ == "__main__":
    print(json.dumps(main()))
