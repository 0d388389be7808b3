"""`estimate_memory` against what a real state holds, to the byte."""

import dataclasses
import functools
import importlib

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.meshes import cases

OPTIMIZERS = {**cases.OPTIMIZERS, "sgd without momentum": lambda: ct.sgd(0.1), "rmsprop alone": lambda: ct.rmsprop(0.1)}


def held(estimate: ct.MemoryEstimate) -> ct.StateBytes:
    """Between steps."""
    return dataclasses.replace(estimate.device, gradients=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(backend: str, name: str) -> None:
    config = cases.CASES["gpt-untied"].config
    accelerator = ct.Accelerator(backend)
    state = accelerator.prepare(ct.models.build("gpt", config, accelerator), OPTIMIZERS[name]())
    found = ct.estimate_memory(config, OPTIMIZERS[name](), backend=backend)
    assert held(found) == state.device_bytes
    assert found.device == found.whole
    assert found.device.gradients == 4 * state.parameter_count


@pytest.mark.parametrize(("case", "precision"), [("mlp", "fp64"), ("resnet9", "bf16-pure"), ("gpt", "bf16")])
def test_every_model_and_precision_with_an_average(backend: str, case: str, precision: str) -> None:
    config, average = cases.CASES[case].config, ct.ema(0.9)
    accelerator = ct.Accelerator(backend, precision=precision)
    state = accelerator.prepare(ct.models.build(config.kind, config, accelerator), ct.muon(0.02), average=average)
    found = ct.estimate_memory(config, ct.muon(0.02), backend=backend, precision=precision, average=average)
    assert held(found) == state.device_bytes


def test_a_user_s_own_model(backend: str) -> None:
    own = importlib.import_module(f"parity_tests.meshes.own_{backend}")
    state = ct.Accelerator(backend).prepare(own.make(), ct.adamw(1e-3))
    for make in (own.make, functools.partial(own.make)):
        assert held(ct.estimate_memory(make, ct.adamw(1e-3), backend=backend)) == state.device_bytes


def test_llama_3_8b(backend: str) -> None:
    """8.03B parameters: 16.06 GB in bfloat16, 32.12 GB in float32, and an eighth of it on each of eight devices."""
    estimate = functools.partial(ct.estimate_memory, ct.models.PRESETS["llama3-8b"], ct.adamw(1e-3), backend=backend)
    found = estimate(precision="bf16", mesh=ct.MeshSpec(fsdp=8))
    count = 8_030_261_248
    assert found.plan.size == count
    assert found.whole.parameters == found.whole.gradients == 4 * count
    assert found.device.parameters == 4 * count // 8
    counts = found.whole.optimizer - 8 * count
    assert 0 <= counts <= 4 * len(found.plan.params)
    assert found.device.optimizer == count + counts
    assert "8,030,261,248 parameters, AdamW" in found.table()
    assert f"{4 * count // 8:,}" in found.table()


def test_functions_that_make_no_model_are_refused(backend: str) -> None:
    other = {"jax": np.zeros, "torch": dict}[backend]
    with pytest.raises(ct.ModelError, match=rf"on the {backend} engine, got"):
        ct.estimate_memory(lambda: other(3) if backend == "jax" else other(), ct.adamw(1e-3), backend=backend)


def test_a_precision_that_only_torch_has(backend: str) -> None:
    config = cases.CASES["mlp"].config
    if backend == "torch":
        ct.estimate_memory(config, ct.adamw(1e-3), backend=backend, precision="bf16-autocast")
        return
    with pytest.raises(ct.ConfigError, match=f"casting must be 'cast' on the {backend} engine, got casting='autocast'"):
        ct.estimate_memory(config, ct.adamw(1e-3), backend=backend, precision="bf16-autocast")


def test_a_mesh_that_the_model_cannot_use_is_refused(backend: str) -> None:
    with pytest.raises(ct.ConfigError, match=r"expert=2 must split some parameter"):
        ct.estimate_memory(ct.models.MLPConfig(), ct.adamw(1e-3), backend=backend, mesh=ct.MeshSpec(expert=2))
    with pytest.raises(ct.ConfigError, match="pipeline=3"):
        ct.estimate_memory(ct.models.GPTConfig(), ct.adamw(1e-3), backend=backend, mesh=ct.MeshSpec(pipeline=3))
