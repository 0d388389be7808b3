"""A small port with one mistake at a time: the report names the module, or the operation between two modules."""

from collections.abc import Callable
from dataclasses import dataclass
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
from crosstrain.parity.causes import between

CLASSES = 4


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)
        self.fc1 = nn.Linear(48, 8)
        self.fc2 = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(image.permute(0, 3, 1, 2)))
        x = nn.functional.gelu(self.fc1(x.flatten(1)))
        return self.head(self.norm(x + self.fc2(x)))


def unchanged(x: jax.Array) -> jax.Array:
    return x


@dataclass(frozen=True)
class Operations:
    """What a port writes between its layers; each field is one place for a mistake."""

    first: Callable[[Any], Any] = unchanged
    flatten: Callable[[Any], Any] = lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    gelu: Callable[[Any], Any] = lambda x: jax.nn.gelu(x, approximate=False)
    residual: Callable[[Any, Any], Any] = lambda x, y: x + y
    last: Callable[[Any], Any] = unchanged


class Scaled(nnx.Linear):
    """A layer with a mistake inside; it inherits its parameters, not its call."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) * 1.5


class FlaxNet(nnx.Module):
    def __init__(self, operations: Operations = Operations(), head: type = nnx.Linear, eps: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.operations = operations
        self.conv = nnx.Conv(1, 3, (3, 3), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(48, 8, rngs=rngs)
        self.fc2 = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=eps, use_fast_variance=False, rngs=rngs)
        self.head = head(8, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        each = self.operations
        x = each.flatten(jax.nn.relu(self.conv(each.first(image))))
        x = each.gelu(self.fc1(x))
        return each.last(self.head(self.norm(each.residual(x, self.fc2(x)))))


def batches(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {
        "image": draw.normal(size=(8, 6, 6, 1)).astype(np.float32),
        "label": draw.integers(0, CLASSES, 8).astype(np.int32),
    }


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"])


def verdict_of(
    model: Callable[[], nnx.Module],
    torch_model: Callable[[], nn.Module] = TorchNet,
    images: Callable[[np.random.Generator], np.ndarray] | None = None,
    hints: dict[str, str] | None = None,
) -> Verdict:
    """Of a port; `images` draws eight inputs in the place of those of `batches`."""
    port = Port(
        torch_model=torch_model,
        jax_model=model,
        torch_loss=loss_fn,
        jax_loss=loss_fn,
        batches=lambda step: batches(step) | ({"image": images(np.random.default_rng(step))} if images else {}),
        optimizer=ct.adamw(1e-3),
        hints=hints or {},
    )
    torch_side, jax_side, matching = port.sides()
    assert matching.complete, matching.problem("torch", "jax")
    return compare(torch_side, jax_side, total_steps=1, free_steps=2)


def test_the_port_without_mistakes_is_the_same() -> None:
    assert verdict_of(FlaxNet).findings == ()


def scaled_gradient(x: jax.Array) -> jax.Array:
    return 2.0 * x - jax.lax.stop_gradient(x)


@pytest.mark.parametrize(
    ("model", "channel", "where", "cause"),
    [
        (
            lambda: FlaxNet(Operations(first=lambda x: 2.0 * x)),
            "activation",
            "between the input of (model) and conv",
            "2 times as large",
        ),
        (
            lambda: FlaxNet(Operations(flatten=lambda x: x.reshape(len(x), -1))),
            "activation",
            "between conv and fc1",
            "the same values in another order: a flatten",
        ),
        (
            lambda: FlaxNet(Operations(gelu=jax.nn.gelu)),
            "activation",
            "between fc1 and fc2",
            "nearly the same function",
        ),
        (
            lambda: FlaxNet(Operations(gelu=lambda x: jax.nn.relu(x - 0.1))),
            "activation",
            "between fc1 and fc2",
            "another operation",
        ),
        (
            lambda: FlaxNet(Operations(residual=lambda x, y: y)),
            "activation",
            "between fc2 and norm",
            "another operation",
        ),
        (
            lambda: FlaxNet(Operations(last=lambda x: 0.125 * x)),
            "activation",
            "(model), after head",
            "all inside it agrees: the values are 0.125 times as large",
        ),
        (lambda: FlaxNet(head=Scaled), "activation", "head", "its input agrees: the values are 1.5 times as large"),
        (
            lambda: FlaxNet(Operations(last=jax.lax.stop_gradient)),
            "backward",
            "head.weight",
            "no gradient arrives on one side",
        ),
        (
            lambda: FlaxNet(Operations(gelu=lambda x: jax.lax.stop_gradient(jax.nn.gelu(x, approximate=False)))),
            "backward",
            "fc1.weight",
            "fc2.bias, which the backward pass reaches before, agrees",
        ),
        (
            lambda: FlaxNet(Operations(gelu=lambda x: scaled_gradient(jax.nn.gelu(x, approximate=False)))),
            "backward",
            "fc1.weight",
            "gradients are 2 times as large",
        ),
    ],
    ids=[
        "scaled input",
        "flatten order",
        "gelu",
        "another activation",
        "missing residual",
        "scaled logits",
        "inside a layer",
        "detached loss",
        "detached between layers",
        "gradient between layers",
    ],
)
def test_the_first_difference_names_its_place(
    model: Callable[[], FlaxNet], channel: str, where: str, cause: str
) -> None:
    first = verdict_of(model).first
    assert (first.channel, first.where) == (channel, where), str(first)
    assert cause in first.cause


def test_what_follows_from_a_difference_says_so() -> None:
    found = verdict_of(lambda: FlaxNet(Operations(gelu=jnp.tanh))).findings
    causes = {finding.where: finding.cause for finding in found if finding.channel == "activation"}
    assert list(causes) == ["between fc1 and fc2", "fc2", "norm", "head", "(model)"]
    assert {causes[name] for name in ("fc2", "norm", "head")} == {"follows from between fc1 and fc2"}


def test_parts_in_another_order_are_known_whatever_the_sizes() -> None:
    """As many images as rows: the nearest orientation of channels that come last may take one for the other."""
    x = np.random.default_rng(2).normal(size=(4, 6, 4, 4))
    y = np.roll(x, 3, axis=1).transpose(0, 2, 3, 1)
    assert between(x, y).startswith("the same values in another order")


def test_a_factor_near_one_is_not_called_a_scale() -> None:
    x = np.random.default_rng(0).normal(size=(4, 16))
    assert "0.999995 times as large: an eps" in between(x, 0.999995 * x)


class TorchWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(5, 8, padding_idx=0), nn.Linear(8, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens).mean(1))


class FlaxWords(nnx.Module):
    def __init__(self) -> None:
        self.embed = nnx.Embed(5, 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(8, CLASSES, rngs=nnx.Rngs(0))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.embed(tokens).mean(1))


def test_padding_of_an_embedding_is_named() -> None:
    """torch keeps the row of `padding_idx` as it is; flax's embedding has no such option."""
    first = verdict_of(FlaxWords, TorchWords, lambda draw: draw.integers(0, 5, (8, 6))).first
    assert first is not None
    assert (first.channel, first.where) == ("backward", "embed.weight")
    assert "padding_idx" in first.cause
