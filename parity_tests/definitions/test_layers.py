"""Normalisations, their gradients and statistics, and dropout masks of both engines against the NumPy reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.random import seed_key, stable_hash
from parity_tests.reference import layers
from parity_tests.tolerances import assert_close, bound, difference

from .common import Arrays, few, native, project, set_params

EPS = st.sampled_from([1e-5, 1e-3])
DEFAULT_EPS = 1e-5
MOMENTUM = {"batch_norm": {"momentum": 0.1}}
SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))
RATE = 0.1


def probe(backend: str, kind: str, shape: tuple[int, ...], seed: int, precision: str = "fp64", **options: float) -> Any:
    """An accelerator, a state over a layer with weights and input from `seed`, and those weights."""
    accelerator = ct.Accelerator(backend, precision=precision)
    layer = getattr(native(backend), kind)(shape, **options)
    state = accelerator.prepare(layer, ct.sgd(RATE))
    generator = np.random.default_rng(seed)
    start = {name: generator.normal(1.0, 2.0, shape) for name, shape in state.parameter_shapes.items()}
    set_params(state, start)
    return accelerator, state, start


def projections(shape: tuple[int, ...], count: int) -> list[Arrays]:
    return [{"g": np.random.default_rng(1000 + index).normal(size=shape)} for index in range(count)]


def moved(params: Arrays, gradients: Arrays) -> Arrays:
    return {name: values - RATE * gradients[name] for name, values in params.items()}


@few
@given(shape=SHAPES, eps=EPS, momentum=st.sampled_from([0.1, 0.5]), seed=st.integers(0, 99))
def test_batch_norm(backend: str, shape: tuple[int, ...], eps: float, momentum: float, seed: int) -> None:
    accelerator, state, params = probe(backend, "batch_norm", shape, seed, eps=eps, momentum=momentum)
    value_and_grad = accelerator.value_and_grad(project)
    mean, var = np.zeros(shape[-1]), np.ones(shape[-1])
    for batch in projections(shape, 3):
        x, weight, bias = params["x"], params["layer.weight"], params["layer.bias"]
        y = layers.batch_norm(x, weight, bias, eps=eps)
        back = layers.batch_norm_gradients(x, weight, batch["g"], eps=eps)
        mean, var = layers.running_statistics(x, mean, var, momentum=momentum)
        expected = {"x": back.x, "layer.weight": back.weight, "layer.bias": back.bias}

        metrics, gradients = value_and_grad(state, batch)
        scale = np.abs(y * batch["g"]).sum()
        assert abs(metrics["loss"] - (y * batch["g"]).sum()) <= bound("loss") * scale
        terms = {"x": batch["g"] * weight / layers.batch_norm_scale(x, eps=eps)}
        assert_gradients(gradients.to_host(), expected, terms)
        state.apply_gradients(gradients)
        params = moved(params, expected)
        set_params(state, params)
        running = {"layer.running_mean": mean, "layer.running_var": var}
        assert_close(dict(state.snapshot().buffers), running, "statistics")

    y = layers.batch_norm_evaluation(params["x"], params["layer.weight"], params["layer.bias"], mean, var, eps=eps)
    found = accelerator.predict_step(lambda model, batch, ops: model())(state, {"x": np.zeros(shape[0])})
    assert difference(found["prediction"], y) <= bound("activation")


def assert_gradients(found: Arrays, expected: Arrays, terms: Arrays) -> None:
    """Within the bound; those in `terms` within the bound of the largest of their terms.

    Such a gradient is what is left of these terms when others are subtracted. Where little is left it is small, but its
    rounding is that of the terms.
    """
    for name, each in terms.items():
        assert np.abs(found[name] - expected[name]).max() <= bound("gradient") * np.abs(each).max(), name
    rest = expected.keys() - terms.keys()
    assert_close(
        {name: found[name] for name in found.keys() - terms.keys()}, {name: expected[name] for name in rest}, "gradient"
    )


def options_of(kind: str, eps: float | None, groups: int) -> dict[str, Any]:
    return {"eps": eps or DEFAULT_EPS} | ({"groups": groups} if kind == "group_norm" else {})


def pass_of(kind: str, params: Arrays, g: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, Arrays, Arrays]:
    """By the reference: the output, the gradients back from `g`, and the terms of those that are differences."""
    x, parameters = params["x"], [params[f"layer.{name}"] for name in ("weight", "bias") if f"layer.{name}" in params]
    y = getattr(layers, kind)(x, *parameters, **options)
    back = getattr(layers, f"{kind}_gradients")(x, parameters[0], g, **options)
    gradients = {"x": back.x, "layer.weight": back.weight, "layer.bias": back.bias}
    scaled = g / getattr(layers, f"{kind}_scale")(x, **options)
    terms = {"x": scaled * parameters[0], "layer.weight": np.abs(scaled * x).sum(tuple(range(x.ndim - 1)))}
    return y, {name: gradients[name] for name in params}, terms


@pytest.mark.parametrize("kind", ["layer_norm", "group_norm", "rms_norm"])
@few
@given(
    examples=st.integers(1, 4),
    positions=st.lists(st.integers(1, 3), max_size=2),
    groups=st.integers(1, 3),
    width=st.integers(1, 4),
    eps=st.sampled_from([None, 1e-6, 1e-3, 0.1]),
    seed=st.integers(0, 99),
)
def test_norms_without_running_statistics(
    backend: str, kind: str, examples: int, positions: list[int], groups: int, width: int, eps: float | None, seed: int
) -> None:
    shape = (examples, *positions, groups * width)
    options = options_of(kind, eps, groups)
    own = {name: value for name, value in options.items() if name != "eps" or eps is not None}
    accelerator, state, params = probe(backend, kind, shape, seed, **own)
    (batch,) = projections(shape, 1)
    y, gradients, terms = pass_of(kind, params, batch["g"], options)
    found = accelerator.probe_step(project)(state, batch)
    assert difference(found.activations[""], y) <= bound("activation")
    assert_gradients(dict(found.gradients), gradients, terms)


@pytest.mark.parametrize("kind", ["layer_norm", "group_norm", "batch_norm"])
@pytest.mark.parametrize("positions", [(6, 5), (1, 1)], ids=str)
def test_a_large_mean_cancels_nothing_in_float32(backend: str, kind: str, positions: tuple[int, int]) -> None:
    """Neither forwards nor backwards; the mean of squares minus the squared mean would lose every digit of y."""
    shape, groups = (16, *positions, 32), 4
    options = options_of(kind, None, groups)
    accelerator, state, params = probe(backend, kind, shape, 0, "fp32", **options, **MOMENTUM.get(kind, {}))
    params["x"] = np.random.default_rng(0).normal(1e3, 1.0, shape)
    params = {name: values.astype(np.float32).astype(np.float64) for name, values in params.items()}
    set_params(state, params)
    batch = {"g": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    y, gradients, _ = pass_of(kind, params, batch["g"].astype(np.float64), options)
    found = accelerator.probe_step(project)(state, batch)
    assert difference(found.activations[""], y) <= bound("norm at mean 1e3", "float32")
    assert_close(dict(found.gradients), gradients, "norm at mean 1e3", "float32")
    assert difference(by_squares(kind, params, options), y) > 10 * bound("norm at mean 1e3", "float32")


def by_squares(kind: str, params: Arrays, options: dict[str, Any]) -> np.ndarray:
    """The norm in float32 with the variance as mean(x^2) - mean(x)^2, which the definitions do not allow."""
    x, weight, bias = (params[name].astype(np.float32) for name in ("x", "layer.weight", "layer.bias"))
    rows = x.reshape(*x.shape[:-1], options.get("groups", 1), -1)
    axes = {"layer_norm": (-1,), "group_norm": (1, 2, 4), "batch_norm": (0, 1, 2)}[kind]
    mean = rows.mean(axes, keepdims=True)
    variance = np.maximum((rows * rows).mean(axes, keepdims=True) - mean * mean, np.float32(0))
    normed = ((rows - mean) / np.sqrt(variance + np.float32(options["eps"]))).reshape(x.shape)
    return (normed * weight + bias).astype(np.float64)


@pytest.mark.parametrize("groups", [0, -1, 3, 16])
def test_groups_that_do_not_divide_the_channels_are_refused(backend: str, groups: int) -> None:
    with pytest.raises(ct.ConfigError, match=f"got groups={groups} for 8 channels"):
        native(backend).group_norm((2, 8), groups=groups)


def test_batch_norm_inside_its_model(backend: str) -> None:
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
    x = found["prep.conv"]
    y = layers.batch_norm(x, np.ones(2), np.zeros(2), eps=config.norm_eps)
    assert difference(found["prep.norm"], y) <= bound("activation")
    accelerator.train_step(loss_fn)(state, batch)
    mean, var = layers.running_statistics(x, np.zeros(2), np.ones(2), momentum=config.norm_momentum)
    buffers = {name: values for name, values in state.snapshot().buffers.items() if name.startswith("prep.")}
    assert_close(buffers, {"prep.norm.running_mean": mean, "prep.norm.running_var": var}, "statistics")


@few
@given(
    rate=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    step=st.integers(0, 3),
    seed=st.sampled_from([0, 7, 2**40 + 5, -1]),
    width=st.integers(1, 33),
)
def test_dropout_masks(backend: str, rate: float, step: int, seed: int, width: int) -> None:
    config = ct.models.MLPConfig(hidden=(width,), dropout=rate)
    accelerator = ct.Accelerator(backend, precision="fp64", seed=seed)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(0.0))
    batch = {"image": np.random.default_rng(0).normal(size=(6, 64)), "label": np.zeros(6, np.int32)}

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.cross_entropy(model(batch["image"]), batch["label"])

    train = accelerator.train_step(loss_fn)
    for _ in range(step):
        train(state, batch)
    activations = accelerator.probe_step(loss_fn)(state, batch).activations
    kept = layers.dropout_mask(seed_key(seed, "dropout"), step, stable_hash("dropouts.0", bits=32), 6, width, rate)
    expected = np.where(kept, np.maximum(activations["layers.0"], 0) / (1 - rate), 0)
    found = activations["dropouts.0"]
    np.testing.assert_array_equal(found != 0, expected != 0)
    assert found == pytest.approx(expected, rel=bound("activation"))
