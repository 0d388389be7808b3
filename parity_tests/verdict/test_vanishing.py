"""Exact ports whose true gradients are partly 0: what is left of them is rounding, and no difference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port, Verdict, compare
from crosstrain.step import StepOptions
from parity_tests.mutations.updates import clip
from parity_tests.verdict.small_port import small_port

FEATURES, CLASSES = 6, 4


class TorchAttention(nn.Module):
    """A softmax does not see the bias of its keys."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(FEATURES, FEATURES) for _ in range(3))
        self.head = nn.Linear(FEATURES, CLASSES)
        nn.init.zeros_(self.k.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        return self.head((weights @ self.v(x)).mean(1))


class FlaxAttention(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.q, self.k, self.v = (nnx.Linear(FEATURES, FEATURES, rngs=rngs) for _ in range(3))
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(self.q(x) @ self.k(x).swapaxes(-1, -2))
        return self.head((weights @ self.v(x)).mean(1))


class TorchPacked(nn.Module):
    """The biases of queries, keys and values are one parameter, of which a third vanishes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.att = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.att(x, x, x, need_weights=False)[0].mean(1))


class FlaxPacked(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.att = nnx.MultiHeadAttention(2, FEATURES, decode=False, rngs=rngs)
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.att(x).mean(1))


class TorchNormed(nn.Module):
    """A mean over examples and positions takes the bias of a convolution away: 16,384 terms cancel, and round."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv, self.second):
            x = torch.relu(nn.functional.batch_norm(conv(x), None, None, training=True))
        return self.head(x.mean((2, 3)))


class FlaxNormed(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv, self.second = (nnx.Conv(*size, (3, 3), padding=1, rngs=rngs) for size in ((2, 8), (8, 16)))
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.transpose(0, 2, 3, 1)
        for conv in (self.conv, self.second):
            x = conv(x)
            x = jax.nn.relu((x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5))
        return self.head(x.mean((1, 2)))


def batches(size: int, *shape: int) -> Callable[[int], dict[str, np.ndarray]]:
    def of_step(step: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(step)
        return {"x": draw.normal(size=(size, *shape)), "label": draw.integers(0, CLASSES, size).astype(np.int32)}

    return of_step


PAIRS = {
    "attention": (TorchAttention, FlaxAttention, batches(8, 5, FEATURES)),
    "packed attention": (TorchPacked, FlaxPacked, batches(8, 5, FEATURES)),
    "batch norm": (TorchNormed, FlaxNormed, batches(64, 2, 16, 16)),
}


def port(pair: str, optimizer: Any) -> Port:
    torch_model, jax_model, data = PAIRS[pair]
    return small_port(
        torch_model=torch_model,
        jax_model=jax_model,
        batches=data,
        optimizer=optimizer,
        total_steps=4,
    )


def verdict_of(pair: str, optimizer: Any) -> Verdict:
    a, b, matching = port(pair, optimizer).sides()
    assert matching.complete
    return compare(a, b, total_steps=4, free_steps=6)


@pytest.mark.parametrize("optimizer", [ct.adamw(1e-3), ct.lion(1e-4), ct.sgd(1e-2)], ids=["adamw", "lion", "sgd"])
@pytest.mark.parametrize("pair", PAIRS)
def test_rounding_is_no_difference(pair: str, optimizer: Any) -> None:
    found = verdict_of(pair, optimizer)
    assert found.same_algorithm, [str(finding) for finding in found.findings]


def test_a_step_that_clips_harder_is_still_found_beside_it() -> None:
    a, b, _ = port("attention", ct.adamw(1e-3)).sides()
    a, b = (replace(side, options=StepOptions(clip_norm=0.2)) for side in (a, b))
    from crosstrain.parity.verdict import compare_open

    live, other = a.open("fp64"), b.open("fp64")
    clip(0.1)(live)
    first = compare_open(live, other, total_steps=4, free_steps=4).first
    assert (first.channel, first.cause) == ("step", "gradient clipping: its norm, its order, or its limit")
