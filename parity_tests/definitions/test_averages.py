"""Averages of the weights on both engines against the NumPy reference, over changing weights, in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import optimizers as reference
from parity_tests.tolerances import assert_close

from .common import Arrays, few

UPDATES = 20
CONFIG = ct.models.MLPConfig(in_features=3, hidden=(4,), out_features=2)


def run(backend: str, average: Any) -> tuple[Arrays, list[Arrays]]:
    """The average after the updates, and the weights after each."""
    accelerator = ct.Accelerator(backend, precision="fp64")
    model = ct.models.build("mlp", CONFIG, accelerator)
    state = accelerator.prepare(model, ct.sgd(1e-1, momentum=0.9), average=average)
    generator = np.random.default_rng(0)
    weights = []
    for _ in range(UPDATES):
        grads = {name: generator.normal(size=shape) for name, shape in state.parameter_shapes.items()}
        state.apply_gradients(state.to_gradients(grads))
        weights.append(dict(state.snapshot().params))
    return dict(state.snapshot().averages), weights


@few
@given(decay=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999]))
def test_ema(backend: str, decay: float) -> None:
    found, weights = run(backend, ct.ema(decay))
    start = CONFIG.initial_weights(0)
    expected = {name: reference.ema(start[name], [each[name] for each in weights], decay) for name in start}
    assert_close(found, expected, "average")


@few
@given(first=st.integers(0, UPDATES + 2), every=st.integers(1, 7))
def test_swa(backend: str, first: int, every: int) -> None:
    found, weights = run(backend, ct.swa(first, every=every))
    start = CONFIG.initial_weights(0)
    expected = {name: reference.swa(start[name], [each[name] for each in weights], first, every) for name in start}
    assert_close(found, expected, "average")


@pytest.mark.parametrize(("every", "share"), [(1, 0.3), (3, 0.5), (7, 1.0)])
def test_lookahead(backend: str, every: int, share: float) -> None:
    accelerator = ct.Accelerator(backend, precision="fp64")
    model = ct.models.build("mlp", CONFIG, accelerator)
    state = accelerator.prepare(model, ct.sgd(1e-1), average=ct.lookahead(every=every, share=share))
    generator = np.random.default_rng(0)
    drawn = [
        {name: generator.normal(size=shape) for name, shape in state.parameter_shapes.items()} for _ in range(UPDATES)
    ]
    for grads in drawn:
        state.apply_gradients(state.to_gradients(grads))
    start, found = CONFIG.initial_weights(0), state.snapshot()
    expected = {
        name: reference.lookahead(start[name], [each[name] for each in drawn], 1e-1, every, share) for name in start
    }
    assert_close(dict(found.params), {name: fast for name, (fast, _) in expected.items()}, "weights")
    assert_close(dict(found.averages), {name: slow for name, (_, slow) in expected.items()}, "average")


def test_lookahead_leaves_what_stands_still(backend: str) -> None:
    """Frozen between two averages, a parameter stays where it was, and its average goes on towards it."""
    accelerator = ct.Accelerator(backend, precision="fp64")
    model = ct.models.build("mlp", CONFIG, accelerator)
    state = accelerator.prepare(model, ct.sgd(1e-1), average=ct.lookahead(every=3, share=0.5))
    ones = {name: np.ones(shape) for name, shape in state.parameter_shapes.items()}
    before = dict(state.snapshot().params)
    for step in range(3):
        if step == 1:
            state.freeze(r"^layers\.0\.weight")
        state.apply_gradients(state.to_gradients(ones))
    after = state.snapshot()
    moved = {name: np.unique(np.round((before[name] - after.params[name]) / 1e-1, 9)).tolist() for name in before}
    assert moved == {name: [1.0] if name == "layers.0.weight" else [1.5] for name in before}
    averaged = {name: np.unique(np.round((before[name] - after.averages[name]) / 1e-1, 9)).tolist() for name in before}
    assert averaged == {name: [0.5] if name == "layers.0.weight" else [1.5] for name in before}
