"""What the definition tests share: hypothesis' settings, and weights set by hand. Imports neither framework."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import settings

import crosstrain as ct

Arrays = dict[str, np.ndarray]

# The same examples in every run: a failure can be repeated, and a green run stays green.
few = settings(max_examples=8, deadline=None, derandomize=True)


def native(backend: str) -> Any:
    """The probes of one engine, imported only when that engine is under test."""
    return importlib.import_module(f".native_{backend}", __package__)


def project(model: Any, batch: Any, ops: ct.Ops) -> ct.Loss:
    """A loss whose gradient with respect to the layer's output is the batch's `g`."""
    return ct.Loss((model() * batch["g"]).sum(), 1.0)


def set_params(state: ct.TrainState, params: Arrays) -> None:
    """Gives a state these weights."""
    state.load(replace(state.snapshot(), params=params))
