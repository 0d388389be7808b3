"""The activations of the paired models, their derivatives, and SwiGLU, on both engines against the NumPy reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import activations
from parity_tests.tolerances import assert_close, bound, difference

from .common import few, native, project, set_params

# Zeros, where ReLU has its corner, and tails, where a tanh or an erf is 1 to the last digit.
EDGES = [0.0, -0.0, 1e-8, -1e-8, 5.0, -5.0, 9.0, -9.0, 30.0, -30.0]


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
def test_values_and_derivatives(backend: str, kind: str) -> None:
    x = np.concatenate([EDGES, np.random.default_rng(0).normal(0.0, 3.0, 200)])
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(native(backend).activation(x.shape, kind), ct.sgd(0.1))
    set_params(state, {"x": x})
    found = accelerator.probe_step(project)(state, {"g": np.ones(x.shape)})
    value, derivative = getattr(activations, kind)(x)
    assert (np.abs(found.activations[""] - value) <= bound("activation") * np.maximum(1, np.abs(value))).all()
    assert (np.abs(found.gradients["x"] - derivative) <= bound("gradient")).all()


@few
@given(width=st.integers(1, 4), seed=st.integers(0, 99))
def test_swiglu(backend: str, width: int, seed: int) -> None:
    config = ct.models.GPTConfig(dim=2 * width, n_layers=1, n_heads=1)
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(native(backend).swiglu((5, config.dim), config), ct.sgd(0.1))
    generator = np.random.default_rng(seed)
    params = {name: generator.normal(size=shape) for name, shape in state.parameter_shapes.items()}
    set_params(state, params)
    g = generator.normal(size=(5, config.dim))
    found = accelerator.probe_step(project)(state, {"g": g})
    weights = [params[f"layer.w{index}.weight"] for index in (1, 2, 3)]
    back: Any = activations.swiglu_gradients(params["x"], *weights, g)
    expected = {name if name == "x" else f"layer.{name}.weight": values for name, values in back.items()}
    assert difference(found.activations[""], activations.swiglu(params["x"], *weights)) <= bound("activation")
    assert_close(dict(found.gradients), expected, "gradient")
