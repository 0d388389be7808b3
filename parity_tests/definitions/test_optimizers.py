"""Optimizers of both engines against the NumPy reference, over 100 updates with changing gradients, in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.optim import ParamGroup
from parity_tests.reference import optimizers as reference

UPDATES = 100
BOUND = 1e-12
CONFIG = ct.models.MLPConfig(in_features=3, hidden=(4,), out_features=2)
common = settings(max_examples=8, deadline=None)
rates = st.sampled_from([ct.constant(1e-2), ct.one_cycle(3e-2, UPDATES), ct.cosine(1e-2, UPDATES, warmup_steps=5)])
decays = st.sampled_from([0.0, 1e-3, 0.1])


def gradients_of(name: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Gradients that change in size and sign; some are zero."""
    generator = np.random.default_rng(abs(hash(name)) % 2**32)
    return [generator.normal(size=shape) * 10.0 ** generator.integers(-4, 3) * (i % 7 != 3) for i in range(UPDATES)]


def run(backend: str, spec: Any, *, clip_norm: float | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights after the updates, and the gradients that made them."""
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", CONFIG, accelerator), spec)
    grads = {name: gradients_of(name, shape) for name, shape in state.parameter_shapes.items()}
    for update in range(UPDATES):
        state.apply_gradients(
            state.to_gradients({name: values[update] for name, values in grads.items()}), clip_norm=clip_norm
        )
    return dict(state.snapshot().params), grads


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= BOUND * np.abs(expected).max())


@common
@given(schedule=rates, momentum=st.floats(0.5, 0.99), nesterov=st.booleans(), decay=decays)
def test_sgd(backend: str, schedule: Any, momentum: float, nesterov: bool, decay: float) -> None:
    found, grads = run(backend, ct.sgd(schedule, momentum=momentum, nesterov=nesterov, weight_decay=decay))
    table = schedule.table(UPDATES).tolist()
    for name, start in CONFIG.initial_weights(0).items():
        expected = reference.sgd(
            start, grads[name], table, momentum=[momentum] * UPDATES, nesterov=nesterov, weight_decay=decay
        )
        assert close(found[name], expected), name


@common
@given(
    schedule=rates,
    decoupled=st.booleans(),
    beta1=st.floats(0.5, 0.95),
    beta2=st.floats(0.8, 0.9999),
    eps=st.sampled_from([1e-8, 1e-6]),
    decay=decays,
)
def test_adam_and_adamw(
    backend: str, schedule: Any, decoupled: bool, beta1: float, beta2: float, eps: float, decay: float
) -> None:
    make = ct.adamw if decoupled else ct.adam
    found, grads = run(backend, make(schedule, betas=(beta1, beta2), eps=eps, weight_decay=decay))
    table = schedule.table(UPDATES).tolist()
    for name, start in CONFIG.initial_weights(0).items():
        expected = reference.adam(
            start,
            grads[name],
            table,
            beta1=[beta1] * UPDATES,
            beta2=beta2,
            eps=eps,
            weight_decay=decay,
            decoupled=decoupled,
        )
        assert close(found[name], expected), name


def test_plain_sgd(backend: str) -> None:
    found, grads = run(backend, ct.sgd(1e-2))
    for name, start in CONFIG.initial_weights(0).items():
        assert close(found[name], start - 1e-2 * np.sum(grads[name], axis=0)), name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_momentum_follows_its_schedule(backend: str, kind: str) -> None:
    momentum = ct.linear(0.95, UPDATES, final=0.85)
    values = momentum.table(UPDATES).tolist()
    spec = ct.sgd(1e-2, momentum=momentum, nesterov=True) if kind == "sgd" else ct.adamw(1e-2, betas=(momentum, 0.99))
    found, grads = run(backend, spec)
    for name, start in CONFIG.initial_weights(0).items():
        constant = [1e-2] * UPDATES
        if kind == "sgd":
            expected = reference.sgd(start, grads[name], constant, momentum=values, nesterov=True, weight_decay=0.0)
        else:
            expected = reference.adam(
                start, grads[name], constant, beta1=values, beta2=0.99, eps=1e-8, weight_decay=0.01, decoupled=True
            )
        assert close(found[name], expected), name


def test_groups_scale_rates_and_take_decay_off(backend: str) -> None:
    groups = (ct.undecayed(), ParamGroup(match=r"layers\.1", rate_scale=0.1, weight_decay=0.5))
    found, grads = run(backend, ct.adamw(1e-2, weight_decay=0.1, groups=groups))
    own = {"layers.0.weight": (1.0, 0.1), "layers.1.weight": (0.1, 0.5)}
    for name, start in CONFIG.initial_weights(0).items():
        scale, decay = own.get(name, (1.0, 0.0))
        expected = reference.adam(
            start,
            grads[name],
            [1e-2 * scale] * UPDATES,
            beta1=[0.9] * UPDATES,
            beta2=0.999,
            eps=1e-8,
            weight_decay=decay,
            decoupled=True,
        )
        assert close(found[name], expected), name


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6])
def test_clipping_comes_before_the_update(backend: str, limit: float) -> None:
    found, grads = run(backend, ct.sgd(1e-2, momentum=0.9), clip_norm=limit)
    clipped: dict[str, list[np.ndarray]] = {name: [] for name in grads}
    for update in range(UPDATES):
        now = {name: values[update] for name, values in grads.items()}
        if any(values.any() for values in now.values()):
            now = reference.clip_by_global_norm(now, limit)
        for name, values in now.items():
            clipped[name].append(values)
    for name, start in CONFIG.initial_weights(0).items():
        expected = reference.sgd(
            start,
            clipped[name],
            [1e-2] * UPDATES,
            momentum=[0.9] * UPDATES,
            nesterov=False,
            weight_decay=0.0,
        )
        assert close(found[name], expected), name


def test_float32_bias_correction_keeps_its_digits(backend: str) -> None:
    """1 - 0.999^t computed by subtraction in float32 costs 1e-5 of an early update."""
    accelerator = ct.Accelerator(backend, precision="fp32")
    state = accelerator.prepare(ct.models.build("mlp", CONFIG, accelerator), ct.adam(1.0, eps=0.0))
    before = state.snapshot().params
    ones = {name: np.full(shape, 0.5, np.float32) for name, shape in state.parameter_shapes.items()}
    state.apply_gradients(state.to_gradients(ones))
    for name, values in state.snapshot().params.items():
        np.testing.assert_allclose(before[name] - values, 1.0, rtol=5e-7)
