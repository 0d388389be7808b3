"""Losses and metrics of both engines against the NumPy reference, in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import losses
from parity_tests.tolerances import bound

from .common import few

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
    assert found == pytest.approx(expected, rel=bound("loss"), abs=1e-15)


@few
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


@few
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
