"""Losses, metrics, layers and dropout masks of both engines against the NumPy reference, in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.random import seed_key, stable_hash
from parity_tests.reference import layers, losses

BOUND = 1e-12
common = settings(max_examples=8, deadline=None)
shapes = st.sampled_from([(4, 3), (6, 1, 5), (2, 7, 9)])
weights_of = st.sampled_from([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [2.0, 0.0, 0.0]])


def value_of(backend: str, function: Any, batch: dict[str, np.ndarray]) -> tuple[float, float]:
    """Sum and weight of a loss that does not use its model."""
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", None, accelerator))
    metrics = accelerator.eval_step(lambda model, batch, ops: function(ops, batch))(state, batch)
    total, weight = metrics.sums()[0]
    return float(total), float(weight)


def weights(values: list[float], count: int) -> np.ndarray:
    return np.resize(np.array(values), count)


def agree(found: tuple[float, float], expected: tuple[float, float]) -> None:
    assert found == pytest.approx(expected, rel=BOUND, abs=1e-15)


@common
@given(shape=shapes, weight=weights_of, smoothing=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 99))
def test_cross_entropy_and_accuracy(
    backend: str, shape: tuple[int, ...], weight: list[float], smoothing: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=shape) * 10
    labels = generator.integers(0, shape[-1], shape[:-1])
    labels[generator.random(shape[:-1]) < 0.3] = -100
    w = weights(weight, shape[0])
    batch = {"logits": logits, "label": labels, "weight": w}
    found = value_of(
        backend, lambda ops, b: ops.cross_entropy(b["logits"], b["label"], label_smoothing=smoothing), batch
    )
    agree(found, losses.cross_entropy(logits, labels, w, smoothing, -100))
    found = value_of(backend, lambda ops, b: ops.accuracy(b["logits"], b["label"]), batch)
    agree(found, losses.accuracy(logits, labels, w, -100))


@common
@given(shape=shapes, weight=weights_of, seed=st.integers(0, 99))
def test_mse_and_bce(backend: str, shape: tuple[int, ...], weight: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y, w = generator.normal(size=shape) * 30, generator.random(shape), weights(weight, shape[0])
    batch = {"x": x, "y": y, "weight": w}
    agree(value_of(backend, lambda ops, b: ops.mse(b["x"], b["y"]), batch), losses.mse(x, y, w))
    agree(value_of(backend, lambda ops, b: ops.bce_with_logits(b["x"], b["y"]), batch), losses.bce_with_logits(x, y, w))


def test_mean_without_weights_counts_every_element(backend: str) -> None:
    x = np.arange(12.0).reshape(3, 4)
    agree(value_of(backend, lambda ops, b: ops.mean(b["x"]), {"x": x}), (66.0, 12.0))


def test_batch_norm_output_and_running_statistics(backend: str) -> None:
    config = ct.models.ResNet9Config(width=2, image_size=8, in_channels=1)
    images = ct.data.digits().train["image"][:8]
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("resnet9", config, accelerator), ct.sgd(0.0))
    batch = {"image": images, "label": np.zeros(8, np.int32)}

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.cross_entropy(model(batch["image"]), batch["label"])

    found = dict(accelerator.probe_step(loss_fn)(state, batch).activations)
    if backend == "torch":  # channels-first
        found = {name: np.moveaxis(values, 1, 3) if values.ndim == 4 else values for name, values in found.items()}
    y, mean, var = layers.batch_norm(found["prep.conv"], np.zeros(2), np.ones(2), eps=1e-5, momentum=0.1)
    np.testing.assert_allclose(found["prep.norm"], y, rtol=BOUND, atol=1e-13)
    accelerator.train_step(loss_fn)(state, batch)
    buffers = state.snapshot().buffers
    np.testing.assert_allclose(buffers["prep.norm.running_mean"], mean, rtol=BOUND, atol=1e-15)
    np.testing.assert_allclose(buffers["prep.norm.running_var"], var, rtol=BOUND)


@pytest.mark.parametrize("step", [0, 3])
def test_dropout_masks(backend: str, step: int) -> None:
    rate, seed = 0.3, 7
    config = ct.models.MLPConfig(hidden=(16,), dropout=rate)
    accelerator = ct.Accelerator(backend, precision="fp64", seed=seed)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(0.0))
    batch = {"image": np.random.default_rng(0).normal(size=(6, 64)), "label": np.zeros(6, np.int32)}

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.cross_entropy(model(batch["image"]), batch["label"])

    for _ in range(step):
        accelerator.train_step(loss_fn)(state, batch)
    activations = accelerator.probe_step(loss_fn)(state, batch).activations
    kept = layers.dropout_mask(seed_key(seed, "dropout"), step, stable_hash("dropouts.0", bits=32), 6, 16, rate)
    expected = np.where(kept, np.maximum(activations["layers.0"], 0) / (1 - rate), 0)
    np.testing.assert_allclose(activations["dropouts.0"], expected, rtol=BOUND)
