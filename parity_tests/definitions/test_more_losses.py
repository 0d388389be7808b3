"""More losses, their gradients, and metrics of both engines against the NumPy reference, in float64."""

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import more_losses as reference

BOUND = 1e-12
common = settings(max_examples=10, deadline=None, derandomize=True)
shapes = st.sampled_from([(4, 3), (6, 1, 5), (2, 7, 9)])
patterns = st.sampled_from([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [2.0, 0.0, 0.0]])
Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """A loss with its inputs: those named in `inputs` have gradients."""

    ours: Callable[[Any, dict[str, Any]], Any]
    expected: Callable[[Arrays], reference.Result]
    draw: Callable[[np.random.Generator, tuple[int, ...]], Arrays]
    inputs: tuple[str, ...]


def draw_labels(generator: np.random.Generator, shape: tuple[int, ...]) -> Arrays:
    labels = generator.integers(0, shape[-1], shape[:-1])
    labels[generator.random(shape[:-1]) < 0.3] = -100
    labels.flat[0] = 0
    return {"logits": generator.normal(size=shape) * 10, "label": labels}


def draw_pairs(generator: np.random.Generator, shape: tuple[int, ...]) -> Arrays:
    """Differences of all sizes; some are 0 and some lie on Huber's edges."""
    y = generator.integers(-8, 8, shape) / 4
    d = generator.choice([0.0, 0.25, -0.25, 1.0, -1.0, *generator.normal(size=4) * 3], shape)
    return {"x": y + d, "y": y}


def draw_targets(generator: np.random.Generator, shape: tuple[int, ...]) -> Arrays:
    return {"x": generator.normal(size=shape) * 30, "y": generator.random(shape)}


def draw_distributions(generator: np.random.Generator, shape: tuple[int, ...]) -> Arrays:
    """Some classes have probability 0 in p, by -inf or by underflow."""
    x, y = generator.normal(size=shape) * 3, generator.normal(size=shape) * 3
    x[..., 0][generator.random(shape[:-1]) < 0.3] = -np.inf
    x[..., 1][generator.random(shape[:-1]) < 0.3] = -2000.0
    mask = generator.random(shape[:-1]) < 0.7
    mask.flat[0] = True
    return {"x": x, "y": y, "mask": mask}


def entropy(s: float, z: float) -> Case:
    return Case(
        lambda ops, b: ops.cross_entropy(b["logits"], b["label"], label_smoothing=s, z_loss=z),
        lambda b: reference.cross_entropy(b["logits"], b["label"], b["weight"], s=s, z=z, ignored=-100),
        draw_labels,
        ("logits",),
    )


def pairwise(name: str, draw: Any = draw_pairs, **options: float) -> Case:
    return Case(
        lambda ops, b: getattr(ops, name)(b["x"], b["y"], **options),
        lambda b: getattr(reference, name)(b["x"], b["y"], b["weight"], **options),
        draw,
        ("x", "y"),
    )


CASES = {
    "cross-entropy": entropy(0.0, 0.0),
    "z-loss": entropy(0.0, 1e-2),
    "z-loss and smoothing": entropy(0.1, 1e-4),
    "mse": pairwise("mse"),
    "mae": pairwise("mae"),
    "huber 1": pairwise("huber", delta=1.0),
    "huber 0.25": pairwise("huber", delta=0.25),
    "bce": pairwise("bce_with_logits", draw_targets),
    "kl": Case(
        lambda ops, b: ops.kl_div(b["x"], b["y"]),
        lambda b: reference.kl_div(b["x"], b["y"], b["weight"], np.ones(b["x"].shape[:-1])),
        draw_distributions,
        ("x", "y"),
    ),
    "kl with a mask": Case(
        lambda ops, b: ops.kl_div(b["x"], b["y"], mask=b["mask"]),
        lambda b: reference.kl_div(b["x"], b["y"], b["weight"], b["mask"]),
        draw_distributions,
        ("x", "y"),
    ),
}


@cache
def accelerator_of(backend: str) -> ct.Accelerator:
    return ct.Accelerator(backend, precision="fp64")


@cache
def differentiated(backend: str, name: str) -> Callable[..., Any]:
    """One compiled function for all draws of a case."""
    case = CASES[name]

    def loss_fn(model: Any, batch: dict[str, Any], ops: ct.Ops) -> Any:
        return case.ours(ops, {**batch, **{field: model(field, batch[field]) for field in case.inputs}})

    return accelerator_of(backend).value_and_grad(loss_fn)


def state_of(backend: str, inputs: dict[str, tuple[int, ...]]) -> ct.TrainState:
    native = importlib.import_module(f"parity_tests.definitions.more_native_{backend}")
    return accelerator_of(backend).prepare(native.Inputs(inputs), ct.sgd(0.0))


@common
@given(shape=shapes, pattern=patterns, seed=st.integers(0, 999))
@pytest.mark.parametrize("name", CASES)
def test_losses_and_their_gradients(
    backend: str, name: str, shape: tuple[int, ...], pattern: list[float], seed: int
) -> None:
    case = CASES[name]
    batch = case.draw(np.random.default_rng(seed), shape) | {"weight": np.resize(np.array(pattern), shape[0])}
    state = state_of(backend, {field: batch[field].shape for field in case.inputs})
    metrics, gradients = differentiated(backend, name)(state, batch)
    total, weight, slopes = case.expected(batch)
    assert tuple(metrics.sums()[0]) == pytest.approx((total, weight), rel=BOUND, abs=1e-14)
    for field, found in gradients.to_host().items():
        np.testing.assert_allclose(found, slopes[field], rtol=BOUND, atol=BOUND * np.abs(slopes[field]).max())


def measure(backend: str, function: Callable[[Any, Any], Any], batch: Arrays) -> np.ndarray:
    """Sum and weight of a metric."""
    state = state_of(backend, {"unused": (1,)})
    return accelerator_of(backend).eval_step(lambda _, batch, ops: function(ops, batch))(state, batch).sums()[0]


@common
@given(shape=shapes, pattern=patterns, k=st.integers(1, 3), seed=st.integers(0, 999))
def test_top_k_accuracy_with_ties(
    backend: str, shape: tuple[int, ...], pattern: list[float], k: int, seed: int
) -> None:
    batch = draw_labels(np.random.default_rng(seed), shape) | {"weight": np.resize(np.array(pattern), shape[0])}
    batch["logits"] = np.round(batch["logits"] / 10)
    found = measure(backend, lambda ops, b: ops.top_k_accuracy(b["logits"], b["label"], k=k), batch)
    expected = reference.top_k(batch["logits"], batch["label"], batch["weight"], k=k, ignored=-100)
    assert tuple(found) == pytest.approx(expected, rel=BOUND)
    if k == 1:
        assert tuple(measure(backend, lambda ops, b: ops.accuracy(b["logits"], b["label"]), batch)) == tuple(found)


def test_of_equal_logits_exactly_k_are_accepted(backend: str) -> None:
    batch = {"logits": np.zeros((5, 5)), "label": np.arange(5)}
    for k in range(1, 6):
        assert measure(backend, lambda ops, b, k=k: ops.top_k_accuracy(b["logits"], b["label"], k=k), batch)[0] == k


def test_a_label_that_is_nan_or_out_of_range_is_not_in_the_top(backend: str) -> None:
    logits = np.array([[np.nan, 1.0, 0.0], [np.nan, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    batch = {"logits": logits, "label": np.array([0, 1, 3, -1])}
    assert measure(backend, lambda ops, b: ops.top_k_accuracy(b["logits"], b["label"], k=2), batch).tolist() == [1, 4]


def test_log_probabilities_are_logits_of_themselves(backend: str) -> None:
    batch = draw_distributions(np.random.default_rng(0), (4, 3))
    normalised = {name: batch[name] - reference.logsumexp(batch[name])[:, None] for name in ("x", "y")}
    found = [measure(backend, lambda ops, b: ops.kl_div(b["x"], b["y"]), each)[0] for each in (batch, normalised)]
    assert found[0] == pytest.approx(found[1], rel=BOUND)


def test_kl_is_infinite_where_q_excludes_what_p_contains(backend: str) -> None:
    batch = {"x": np.zeros((1, 2)), "y": np.array([[0.0, -np.inf]])}
    assert measure(backend, lambda ops, b: ops.kl_div(b["x"], b["y"]), batch)[0] == math.inf


@pytest.mark.parametrize(
    ("function", "error", "named"),
    [
        (lambda ops, b: ops.cross_entropy(b["x"], b["i"], z_loss=-1.0), ct.ConfigError, "z_loss=-1.0"),
        (lambda ops, b: ops.cross_entropy(b["x"], b["i"], label_smoothing=1.0), ct.ConfigError, "label_smoothing=1.0"),
        (lambda ops, b: ops.huber(b["x"], b["x"], delta=0.0), ct.ConfigError, "delta=0.0"),
        (lambda ops, b: ops.mae(b["x"], b["i"]), ct.LossError, r"predictions and targets .* \(2, 3\) and \(2,\)"),
        (lambda ops, b: ops.kl_div(b["x"], b["i"]), ct.LossError, r"p_logits and q_logits .* \(2, 3\) and \(2,\)"),
        (lambda ops, b: ops.kl_div(b["i"], b["i"]), ct.LossError, r"shape \(B, ..., C\), got \(2,\)"),
        (lambda ops, b: ops.top_k_accuracy(b["x"], b["i"], k=0), ct.ConfigError, "k=0 of 3 classes"),
        (lambda ops, b: ops.top_k_accuracy(b["x"], b["i"], k=4), ct.ConfigError, "k=4 of 3 classes"),
        (lambda ops, b: ops.f1_counts(b["x"], b["x"])["f1_tp"], ct.LossError, "predicted must be booleans"),
        (lambda ops, b: ops.f1_counts(b["i"], b["i"], classes=1)["f1_tp_0"], ct.ConfigError, "classes=1"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(backend: str, function: Any, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        measure(backend, function, {"x": np.zeros((2, 3)), "i": np.zeros(2, np.int32)})
