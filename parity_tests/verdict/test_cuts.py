"""Models that are cut into modules otherwise, or call them otherwise: no difference by itself, and no wrong place."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity_tests.verdict.test_places import CLASSES, unchanged, verdict_of


def pairs(draw: np.random.Generator) -> np.ndarray:
    return draw.normal(size=(8, 2, 8))


class TorchBlock(nn.Module):
    """A layer with the activation that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.norm(self.fc(x)))


class FlaxBlock(nnx.Module):
    """The same layer without it: the model applies it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.fc(x))


class TorchCut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.rnn, self.head = TorchBlock(), nn.RNNCell(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.block(x[:, 0]), x[:, 1]))


class FlaxCut(nnx.Module):
    """Cut elsewhere than torch's: the activation is outside the block, and a cell is two layers."""

    def __init__(self, activation: Callable[[Any], Any] = jnp.tanh, last: Callable[[Any], Any] = unchanged) -> None:
        rngs = nnx.Rngs(0)
        self.activation, self.last = activation, last
        self.block = FlaxBlock(rngs)
        self.ih, self.hh = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.ih(self.activation(self.block(x[:, 0]))) + self.hh(x[:, 1])
        return self.last(self.head(jnp.tanh(hidden)))


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (FlaxCut, None),
        (lambda: FlaxCut(activation=jax.nn.silu), "block, after block.norm"),
        (lambda: FlaxCut(last=jax.nn.log_softmax), "(model)"),
    ],
    ids=["clean", "another activation", "log-probabilities"],
)
def test_modules_may_be_cut_elsewhere(model: Callable[[], FlaxCut], where: str | None) -> None:
    """What a module returns is no difference where the loss and all gradients agree; what the model returns is one."""
    hints = {f"rnn.{kind}_{part}": f"{part}.{kind}" for kind in ("weight", "bias") for part in ("ih", "hh")}
    verdict = verdict_of(model, TorchCut, pairs, hints)
    assert (verdict.first and verdict.first.where) == where
    assert verdict.findings or max(verdict.checks[0].activations.values()) < 1e-12


class TorchViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = nn.Linear(8, 8), nn.Linear(16, CLASSES)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        a, b = self.encoder(torch.cat([views[:, 0], views[:, 1]])).chunk(2)
        return self.head(torch.cat([a, torch.tanh(b)], -1))


class FlaxViews(nnx.Module):
    """Encodes views one by one; the mistake is after that."""

    def __init__(self) -> None:
        self.encoder, self.head = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.Linear(16, CLASSES, rngs=nnx.Rngs(0))

    def __call__(self, views: jax.Array) -> jax.Array:
        a, b = (self.encoder(views[:, each]) for each in range(2))
        return self.head(jnp.concatenate([a, b], -1))


def test_a_layer_may_be_called_for_each_part() -> None:
    """Calls of other sizes are not compared with each other, so that the mistake is not looked for in them."""
    first = verdict_of(FlaxViews, TorchViews, pairs).first
    assert first is not None
    assert first.where == "between the input of (model) and head"
