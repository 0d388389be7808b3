"""Compiled for TPU pods by libtpu, without one: what meshes over slices and narrower sums are there for."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs pip install 'crosstrain[tpu-plan]'"),
]


@pytest.fixture(scope="module")
def facts() -> dict:
    worker = Path(__file__).parent / "pods.py"
    place = {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, str(worker)], capture_output=True, text=True, timeout=900, check=False, env=os.environ | place
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_reduce_dtype_halves_what_gradients_send(facts: dict, mesh: str) -> None:
    def reduced(kind: str) -> float:
        found = facts[f"{mesh}/{kind}"]["collectives"]
        return sum(each["operand_bytes"] for each in found if each["kind"] in ("all-reduce", "reduce-scatter"))

    parameters = facts[f"{mesh}/None"]["parameters"]
    assert reduced("None") >= 4 * parameters
    assert reduced("bf16") <= reduced("None") - 2 * parameters + 64


def test_meshes_lie_on_the_torus_and_processes_hold_parts_of_their_own(facts: dict) -> None:
    assert len(facts["pods"]) == 8
    assert all(pod["disjoint"] for pod in facts["pods"])
    assert facts["pods"][0]["process 0"] == [0, 1, 16, 17]


def test_slices_meet_along_data_and_then_along_pipeline_only(facts: dict) -> None:
    assert not any(pod["slices share"] for pod in facts["pods"][5:])


def test_a_step_over_two_slices_compiles_and_gathers_weights_inside_of_one(facts: dict) -> None:
    assert {tuple(each["axes"]) for each in facts["across"]["collectives"]} == {("fsdp",)}
    assert facts["across"]["notes"][-1].startswith("data crosses the network between slices")


@pytest.mark.parametrize(
    ("topology", "mesh", "chips"), [("v5e:16x16", "fsdp=64,tensor=4", 256), ("v5p:4x4x8", "fsdp=128", 128)]
)
def test_llama_3_8b_is_planned_before_it_is_paid_for(topology: str, mesh: str, chips: int) -> None:
    """The command of the example: a step of 8 billion parameters compiled for the pod, in two minutes each."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "crosstrain", "plan", "examples/plan_llama.py"]
    ran = subprocess.run(
        [*command, "--topology", topology, "--mesh", mesh],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        cwd=root,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"{topology}, jax: {mesh.replace(',', ', ')}; 8,030,261,248 parameters" in ran.stdout
    held = next(line for line in ran.stdout.splitlines() if "weights, moments, batch" in line)
    # Weights and two moments in float32, evenly over the chips.
    assert float(held.split()[-3]) == pytest.approx(8_030_261_248 * 12 / chips / 2**20, rel=2e-3)
    assert held.split()[-2] == "MiB"
    assert "all-reduce" in ran.stdout
    assert "\nfits\n" in ran.stdout
