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


@pytest.mark.parametrize(
    ("kind", "classes"), [("uint8", 200), ("uint8", 256), ("int8", 200), ("uint16", 300), ("uint32", 300)]
)
def test_labels_of_narrow_types_are_the_same_labels(backend: str, kind: str, classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(6, classes))
    labels = np.array([0, 3, 100, 120, 127, 1] if kind == "int8" else [156, 3, classes - 1, 100, 155, 1])

    def every(ops: ct.Ops, b: dict[str, Any]) -> Any:
        right = ops.accuracy(b["logits"], b["label"]), ops.top_k_accuracy(b["logits"], b["label"], k=50)
        counts = ops.f1_counts(b["label"], b["label"], classes=160)["f1_tp_156"]
        return ops.cross_entropy(b["logits"], b["label"]), {"a": right[0], "k": right[1], "tp": counts}

    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", None, accelerator))
    step = accelerator.eval_step(lambda model, batch, ops: every(ops, batch))
    wide, narrow = (step(state, {"logits": logits, "label": labels.astype(each)}).sums() for each in ("int32", kind))
    np.testing.assert_array_equal(narrow, wide)
    assert (wide[:, 1] == 6).all()


def test_a_mask_is_as_large_as_the_values_and_adds_up_exactly(backend: str) -> None:
    accelerator = ct.Accelerator(backend, precision="bf16")
    state = accelerator.prepare(ct.models.build("mlp", None, accelerator))
    batch = {"x": np.ones((1001, 1), np.float32), "m": np.ones((1001, 1), np.float32)}
    step = accelerator.eval_step(lambda model, batch, ops: ops.mean(batch["x"], batch["m"]))
    assert step(state, batch).sums()[0].tolist() == [1001.0, 1001.0]
    step = accelerator.eval_step(lambda model, batch, ops: ops.mean(batch["x"], batch["m"][:, 0]))
    with pytest.raises(ct.LossError, match="values and mask must have the same shape"):
        step(state, batch)


def test_mean_without_weights_counts_every_element(backend: str) -> None:
    x = np.arange(12.0).reshape(3, 4)
    agree(value_of(backend, lambda ops, b: ops.mean(b["x"]), {"x": x}), (66.0, 12.0))
