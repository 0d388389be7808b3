"""Gradients of losses over uneven weights, in micro-batches and clipped, against the NumPy reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import losses
from parity_tests.reference import optimizers as reference
from parity_tests.tolerances import assert_close, bound

from .common import Arrays, few

SMOOTHING = 0.1
IGNORED = -100


class Case(NamedTuple):
    """A loss over outputs (B, C): on the engines, its sum and weight, and the gradient of its sum."""

    loss: Callable[..., Any]
    values: Callable[..., tuple[float, float]]
    gradient: Callable[..., np.ndarray]
    labels: bool = False


CASES = {
    "cross_entropy": Case(
        lambda ops, out, y: ops.cross_entropy(out, y),
        lambda out, y, w: losses.cross_entropy(out, y, w, 0.0, IGNORED),
        lambda out, y, w: losses.cross_entropy_gradient(out, y, w, 0.0, IGNORED),
        labels=True,
    ),
    "smoothed": Case(
        lambda ops, out, y: ops.cross_entropy(out, y, label_smoothing=SMOOTHING),
        lambda out, y, w: losses.cross_entropy(out, y, w, SMOOTHING, IGNORED),
        lambda out, y, w: losses.cross_entropy_gradient(out, y, w, SMOOTHING, IGNORED),
        labels=True,
    ),
    "mse": Case(lambda ops, out, y: ops.mse(out, y), losses.mse, losses.mse_gradient),
    "bce": Case(
        lambda ops, out, y: ops.bce_with_logits(out, y), losses.bce_with_logits, losses.bce_with_logits_gradient
    ),
}


def draw_batch(case: Case, examples: int, features: int, outputs: int, generator: np.random.Generator) -> Arrays:
    """Inputs, targets and weights; some examples weigh nothing, and some labels do not count."""
    weight = generator.choice([0.0, 0.5, 1.0, 3.0], examples)
    y = generator.random((examples, outputs))
    if case.labels:
        y = np.where(generator.random(examples) < 0.2, IGNORED, generator.integers(0, outputs, examples))
        y[0] = 0
    weight[0] = 1.0
    return {"x": generator.normal(size=(examples, features)), "y": y, "weight": weight}


CLIPPINGS = {"clip_norm": reference.clip_by_global_norm, "clip_value": reference.clip_by_value}


def expected_gradient(case: Case, params: Arrays, batch: Arrays, micro_batches: int) -> tuple[float, Arrays]:
    """The loss and its gradient, put together from micro-batches of rows r mod `micro_batches`."""
    sums, weights, total = [], [], 0.0
    for index in range(micro_batches):
        x, y, w = (batch[name][index::micro_batches] for name in ("x", "y", "weight"))
        out = x @ params["layers.0.weight"].T + params["layers.0.bias"]
        back = case.gradient(out, y, w)
        sums.append({"layers.0.weight": back.T @ x, "layers.0.bias": back.sum(0)})
        value, weight = case.values(out, y, w)
        total += value
        weights.append(weight)
    return total / sum(weights), reference.accumulate(sums, weights)


@few
@given(
    name=st.sampled_from(sorted(CASES)),
    quarter=st.integers(1, 4),
    features=st.integers(1, 5),
    outputs=st.integers(2, 6),
    micro_batches=st.sampled_from([1, 2, 4]),
    clip=st.sampled_from([None, ("clip_norm", 0.1), ("clip_norm", 10.0), ("clip_value", 0.1)]),
    seed=st.integers(0, 99),
)
def test_a_step_follows_the_gradient_of_sum_by_weight(
    backend: str,
    name: str,
    quarter: int,
    features: int,
    outputs: int,
    micro_batches: int,
    clip: tuple[str, float] | None,
    seed: int,
) -> None:
    case = CASES[name]
    batch = draw_batch(case, 4 * quarter, features, outputs, np.random.default_rng(seed))
    config = ct.models.MLPConfig(in_features=features, hidden=(), out_features=outputs)
    start = config.initial_weights(0)
    value, gradient = expected_gradient(case, start, batch, micro_batches)
    norm = reference.global_norm(gradient)
    clipping = {} if clip is None else {clip[0]: clip[1] * norm}
    if clip is not None:
        gradient = CLIPPINGS[clip[0]](gradient, clipping[clip[0]])

    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(1.0))
    step = accelerator.train_step(
        lambda model, batch, ops: case.loss(ops, model(batch["x"]), batch["y"]),
        accumulate_steps=micro_batches,
        grad_norm=True,
        **clipping,
    )
    metrics = step(state, batch)
    assert metrics["loss"] == pytest.approx(value, rel=bound("loss"))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=bound("gradient"))
    assert_close(dict(state.snapshot().params), {name: start[name] - gradient[name] for name in start}, "weights")


def test_clipping_a_gradient_of_zero_leaves_it_zero(backend: str) -> None:
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", None, accelerator), ct.sgd(1.0))
    before = state.snapshot().params
    zeros = {name: np.zeros(shape) for name, shape in state.parameter_shapes.items()}
    state.apply_gradients(state.to_gradients(zeros), clip_norm=1.0)
    state.apply_gradients(state.to_gradients(zeros), clip_value=1.0)
    for name, values in state.snapshot().params.items():
        np.testing.assert_array_equal(values, before[name])
