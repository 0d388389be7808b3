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
