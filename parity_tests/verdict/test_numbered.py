"""Layers whose names say little: the weights of a `Sequential` go where they belong in a list, or in attributes."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import examine
from parity_tests.verdict.small_port import small_port

FEATURES, WIDTH = 5, 8


class TorchNet(nn.Module):
    """The same name as in the port, with other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = (each for _ in range(2) for each in (nn.Linear(WIDTH, WIDTH), nn.Tanh()))
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), *hidden, nn.Linear(WIDTH, 3))


class FlaxNet(nnx.Module):
    def __init__(self) -> None:
        rngs, sizes = nnx.Rngs(0), (FEATURES, WIDTH, WIDTH, WIDTH, 3)
        self.layers = nnx.List(nnx.Linear(*size, rngs=rngs) for size in itertools.pairwise(sizes))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jax.nn.tanh(layer(x))
        return self.layers[-1](x)


def batches(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {"x": draw.normal(size=(8, FEATURES)), "label": draw.integers(0, 3, 8).astype(np.int32)}


@pytest.mark.parametrize("torch_model", [sequential, TorchNet], ids=["other names", "the same name"])
def test_numbered_layers_are_the_same_model(torch_model: Any) -> None:
    port = small_port(
        torch_model=torch_model,
        jax_model=FlaxNet,
        batches=batches,
        optimizer=ct.adamw(1e-3),
        total_steps=2,
    )
    report = examine(port, free_steps=2, low_precision=False)
    assert report.same, report


class Scale(nnx.Module):
    """A layer that crosstrain does not know."""

    def __init__(self) -> None:
        self.scale = nnx.Param(jax.numpy.ones(WIDTH))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scale[...] * x


class TorchScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


class Attributes(nnx.Module):
    """The order of definition is not that of the alphabet."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Linear(FEATURES, WIDTH, rngs=rngs)
        self.second = Scale()
        self.middle = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.fourth = Scale()
        self.later = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.classes = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.second(jax.nn.tanh(self.stem(x)))
        x = self.fourth(jax.nn.tanh(self.middle(x)))
        return self.classes(jax.nn.tanh(self.later(x)))


def scaled() -> nn.Sequential:
    torch.manual_seed(0)
    first = (nn.Linear(FEATURES, WIDTH), nn.Tanh(), TorchScale())
    return nn.Sequential(
        *first,
        nn.Linear(WIDTH, WIDTH),
        nn.Tanh(),
        TorchScale(),
        nn.Linear(WIDTH, WIDTH),
        nn.Tanh(),
        nn.Linear(WIDTH, 3),
    )


def test_attributes_come_in_the_order_of_definition() -> None:
    """Else equal matrices change places, and scales, which all begin at 1, so that gradients alone tell."""
    port = small_port(torch_model=scaled, jax_model=Attributes, batches=batches, total_steps=2)
    report = examine(port, free_steps=2, low_precision=False)
    assert report.matching.problem("torch", "jax") == ""
    assert report.same, report
