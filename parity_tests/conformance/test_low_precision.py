"""Runs whose weights are bfloat16, too: what computes in bfloat16, and that every optimizer moves such weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import crosstrain as ct
from parity_tests.tolerances import assert_close, bound, difference

from .tasks import MLP, RESNET9, images, prepared

Make = Callable[..., ct.Accelerator]
LINEAR = ct.models.MLPConfig(in_features=40, hidden=(), out_features=3)
OPTIMIZERS = {
    "sgd": ct.sgd(0.1),
    "sgd with momentum": ct.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": ct.adam(0.1),
    "adamw": ct.adamw(0.1, weight_decay=0.1),
    "nadam": ct.nadam(0.1),
    "radam": ct.radam(0.1),
    "rmsprop": ct.rmsprop(0.1),
    "adagrad": ct.adagrad(0.1),
    "lion": ct.lion(0.1),
    "lamb": ct.lamb(1.0),
    "adafactor": ct.adafactor(1.0),
    "muon": ct.muon(5.0),
}


@pytest.mark.parametrize("config", [MLP, RESNET9], ids=["mlp", "resnet9"])
@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2, "clip_norm": 1.0}], ids=["plain", "accumulated"])
def test_bfloat16_weights_meet_bfloat16_inputs(make: Make, config: Any, options: dict[str, Any]) -> None:
    """In training and evaluation, with the weights of examples and the loss in float32."""
    seen: dict[str, str] = {}

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["image"])
        loss = ops.cross_entropy(logits, batch["label"])
        seen.update(logits=f"{logits.dtype}", loss=f"{loss.sum.dtype}", weight=f"{batch['weight'].dtype}")
        return loss

    accelerator = make(precision="bf16-pure")
    state = prepared(accelerator, config)
    batch = images(32) | {"weight": np.ones(32, np.float32)}
    step, evaluate = accelerator.train_step(loss_fn, **options), accelerator.eval_step(loss_fn)
    losses = [step(state, batch)["loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    assert np.isfinite(evaluate(state, batch)["loss"])
    assert {name: dtype.removeprefix("torch.") for name, dtype in seen.items()} == {
        "logits": "bfloat16",
        "loss": "float32",
        "weight": "float32",
    }


def test_sums_over_micro_batches_are_float32(make: Make) -> None:
    """Also where a loss function gives them in bfloat16, in which 1600 and 100 more are 1696."""

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        counted = batch["counted"].sum()
        return ct.Loss((model(batch["image"]) * 0.0).sum() + counted, counted), {"counted": ct.Loss(counted, 1.0)}

    accelerator = make(precision="bf16")
    state = prepared(accelerator, LINEAR, ct.sgd(0.1))
    batch = {"image": np.ones((64, 40), np.float32), "counted": np.full(64, 50.0, np.float32)}
    metrics = accelerator.train_step(loss_fn, accumulate_steps=32)(state, batch)
    weight = dict(zip(metrics.names, metrics.sums().tolist(), strict=True))["loss"][1]
    assert (weight, metrics["loss"], metrics["counted"]) == (3200.0, 1.0, 100.0)


def exact(model: Any, batch: Any, ops: ct.Ops) -> Any:
    """A loss whose gradients are small multiples of 1 / 8: the same numbers in bfloat16 and float32."""
    return ops.mean((model(batch["x"]) * batch["side"]).sum(-1))


def narrow(values: np.ndarray) -> np.ndarray:
    """The nearest numbers that bfloat16 has, as float32."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_moves_bfloat16_weights_as_float32_ones(make: Make, name: str) -> None:
    random = np.random.default_rng(0)
    batch = {"x": random.choice([-2.0, -1.0, 1.0, 2.0], (8, 40)), "side": random.choice([-1.0, 1.0], (8, 3))}
    drawn = np.random.default_rng(1)
    shapes = {"layers.0.bias": (3,), "layers.0.weight": (3, 40)}
    weights = {key: narrow(drawn.normal(0.0, 0.1, shape)) for key, shape in shapes.items()}
    after = {}
    for precision in ("fp32", "bf16-pure"):
        accelerator = make(precision=precision)
        state = prepared(accelerator, LINEAR, OPTIMIZERS[name])
        state.load(dataclasses.replace(state.snapshot(), params=weights))
        accelerator.train_step(exact)(state, batch)
        after[precision] = state.snapshot().params
    assert_close(after["bf16-pure"], after["fp32"], "update", "bfloat16")
    # Weights that stood still would be far from there.
    assert min(difference(weights[key], each) for key, each in after["fp32"].items()) > 3 * bound("update", "bfloat16")
