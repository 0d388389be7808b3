"""Plans on torch: what a device holds, and exchanges by formula."""

import dataclasses
import math

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.planning import Job, Report, Topology, plan, sent_bytes
from crosstrain.step import StepOptions
from crosstrain_torch.models import MODELS


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


CONFIG = ct.models.GPTConfig(vocab_size=64, dim=32, n_layers=2, n_heads=8, max_seq_len=16)


def planned(
    mesh: ct.MeshSpec, precision: str = "fp32", config: ct.models.GPTConfig = CONFIG, micro_batches: int = 1
) -> Report:
    batch = {name: np.zeros((16, 16), np.int64) for name in ("tokens", "labels")}
    job = Job(
        model=config,
        loss_fn=loss_fn,
        batch=batch,
        optimizer=ct.adamw(1e-3),
        precision=ct.Precision.parse(precision),
        options=StepOptions(accumulate_steps=micro_batches),
    )
    return plan(job, Topology.parse("cpu:8"), mesh, "torch")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fsdp_holds_a_part_and_sends_three_times_the_weights(precision: str) -> None:
    measured = planned(ct.MeshSpec(data=1, fsdp=8), precision).measured
    weights = measured.plan.size * 4
    assert measured.memory is not None
    batch, angles = 2 * 2 * 16 * 8, 2 * 16 * 2 * 4
    assert measured.memory.state == 3 * weights / 8 + batch + angles
    compute = 4 if precision == "fp32" else 2
    gathered = 2 * measured.plan.size * compute * 7 / 8
    assert sent_bytes(measured.collectives, "all-gather") == gathered
    assert sent_bytes(measured.collectives, "reduce-scatter") == weights * 7 / 8


def test_data_parallel_sends_every_gradient_twice() -> None:
    measured = planned(ct.MeshSpec(data=8)).measured
    assert sent_bytes(measured.collectives) == 2 * measured.plan.size * 4 * 7 / 8


def test_stages_hand_on_activations_and_add_up_what_all_of_them_hold() -> None:
    measured = planned(ct.MeshSpec(data=1, pipeline=2, fsdp=4), micro_batches=4).measured
    stream = 16 * 16 / 4 * CONFIG.dim * 4
    assert sent_bytes(measured.collectives, "collective-permute", "pipeline") == 2 * stream
    shared = sum(
        math.prod(each.local_shape(measured.plan.mesh)) for each in measured.plan.params.values() if each.stage is None
    )
    assert sent_bytes(measured.collectives, "all-reduce", "pipeline") == 2 * shared * 4 / 2


def test_a_mixture_computes_as_much_as_its_active_experts_and_sends_their_tokens() -> None:
    mixture = dataclasses.replace(CONFIG, experts=ct.Experts(number=4, active=2))
    dense = dataclasses.replace(CONFIG, mlp_dim=2 * CONFIG.hidden_dim)
    measured = planned(ct.MeshSpec(data=2, expert=4), config=mixture).measured
    like = planned(ct.MeshSpec(data=8), config=dense).measured
    assert measured.flops == like.flops
    assert measured.plan.size > like.plan.size
    tokens = 16 * 16 / 8
    sent = 4 * CONFIG.n_layers * 2 * tokens * CONFIG.dim * 4 * 3 / 4
    assert sent_bytes(measured.collectives, "all-to-all", "expert") == sent
    assert measured.memory is not None
    assert measured.memory.state < 3 * measured.plan.size * 4
    assert any("evenly" in note for note in measured.notes)


def test_an_own_model_with_experts_is_refused() -> None:
    mixture = dataclasses.replace(CONFIG, experts=ct.Experts(number=4))
    batch = {name: np.zeros((16, 16), np.int64) for name in ("tokens", "labels")}
    job = Job(model=lambda: MODELS["gpt"](mixture), loss_fn=loss_fn, batch=batch, optimizer=ct.adamw(1e-3))
    with pytest.raises(ct.ConfigError, match=r"no experts to be planned on torch, got layers.0.*--backend jax"):
        plan(job, Topology.parse("cpu:8"), ct.MeshSpec(data=2, expert=4), "torch")


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", "nadam"])
def test_a_step_holds_no_more_than_the_estimate(name: str) -> None:
    """torch's optimizers make what they keep in their first step; here it is there from the start."""
    config, optimizer = ct.models.MLPConfig(in_features=4, hidden=(8,), out_features=2), getattr(ct, name)(1e-2)
    accelerator = ct.Accelerator("torch")
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), optimizer)
    batch = {"image": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int64)}
    accelerator.train_step(lambda model, batch, ops: ops.cross_entropy(model(batch["image"]), batch["label"]))(
        state, batch
    )
    estimate = ct.estimate_memory(config, optimizer, backend="torch")
    assert state.device_bytes == dataclasses.replace(estimate.device, gradients=0)
