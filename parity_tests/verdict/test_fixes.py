"""Known causes, one at a time, in a port of a few layers: the fix is found, and closes the gap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import compare
from crosstrain.parity.fixes import Fix, try_fixes
from parity_tests.verdict.small_port import small_port

SIZE = 6


class TorchNet(nn.Module):
    def __init__(self, layer: nn.Module, after: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.after = layer, after
        self.head = nn.Linear(SIZE, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(self.layer(x)))


class FlaxNet(nnx.Module):
    def __init__(self, layer: Callable[[nnx.Rngs], nnx.Module], after: Callable[[jax.Array], jax.Array]) -> None:
        rngs = nnx.Rngs(0)
        self.layer, self.after = layer(rngs), after
        self.head = nnx.Linear(SIZE, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.after(self.layer(x)))


def batches(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {"x": draw.normal(size=(8, SIZE)).astype(np.float32), "label": draw.integers(0, 3, 8).astype(np.int32)}


def far_batches(step: int) -> dict[str, np.ndarray]:
    """Values far from zero, whose variance is a small difference of large squares."""
    batch = batches(step)
    return {**batch, "x": batch["x"] + 1000.0}


def fixes_of(torch_net: Callable[[], nn.Module], flax_net: Callable[[], nnx.Module], data: Any = batches) -> list[Fix]:
    port = small_port(
        torch_model=torch_net,
        jax_model=flax_net,
        batches=data,
        optimizer=ct.sgd(0.1),
        total_steps=1,
    )
    a, b, matching = port.sides()
    assert matching.complete
    verdict = compare(a, b, total_steps=1, free_steps=3)
    assert not verdict.same_algorithm
    return try_fixes(a, b, verdict, total_steps=1, free_steps=3)[0]


def linear(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(SIZE, SIZE, rngs=rngs)


def torch_linear() -> nn.Module:
    return nn.Linear(SIZE, SIZE)


def norm(kind: type, **options: Any) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: kind(SIZE, rngs=rngs, **options)


SLOW = {"use_fast_variance": False}
CASES: dict[str, tuple[Any, Any, str, Any]] = {
    "eps": (
        lambda: TorchNet(nn.LayerNorm(SIZE), torch.tanh),
        lambda: FlaxNet(norm(nnx.LayerNorm, **SLOW), jnp.tanh),
        "eps=1e-05 in layer",
        batches,
    ),
    "machine eps": (
        lambda: TorchNet(nn.RMSNorm(SIZE), torch.tanh),
        lambda: FlaxNet(norm(nnx.RMSNorm), jnp.tanh),
        "eps=machine in layer",
        batches,
    ),
    "gelu": (
        lambda: TorchNet(torch_linear(), nn.functional.gelu),
        lambda: FlaxNet(linear, lambda x: jax.nn.gelu(x)),
        "jax.nn.gelu(approximate=False)",
        batches,
    ),
    "leaky relu": (
        lambda: TorchNet(torch_linear(), lambda x: nn.functional.leaky_relu(x)),
        lambda: FlaxNet(linear, lambda x: nnx.leaky_relu(x, negative_slope=0.02)),
        "",
        batches,
    ),
    "standard deviation": (
        lambda: TorchNet(torch_linear(), lambda x: x / x.std(-1, keepdim=True)),
        lambda: FlaxNet(linear, lambda x: x / jnp.std(x, -1, keepdims=True)),
        "ddof=1",
        batches,
    ),
    "momentum convention": (
        lambda: TorchNet(nn.BatchNorm1d(SIZE), torch.tanh),
        lambda: FlaxNet(norm(nnx.BatchNorm, momentum=0.1, **SLOW), jnp.tanh),
        "momentum=0.1 (the share of the new batch) in layer",
        batches,
    ),
    "biased running variance": (
        lambda: TorchNet(nn.BatchNorm1d(SIZE), torch.tanh),
        lambda: FlaxNet(norm(nnx.BatchNorm, momentum=0.9, **SLOW), jnp.tanh),
        "running variance n / (n - 1)",
        batches,
    ),
    "fast variance": (
        lambda: TorchNet(nn.LayerNorm(SIZE), torch.tanh),
        lambda: FlaxNet(norm(nnx.LayerNorm, epsilon=1e-5), jnp.tanh),
        "use_fast_variance=False",
        far_batches,
    ),
}


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_the_fix_of_a_known_cause_is_found(name: str) -> None:
    torch_net, flax_net, text, data = CASES[name]
    fixes = fixes_of(torch_net, flax_net, data)
    assert fixes[-1].closes, fixes
    assert text in " ".join(fix.text for fix in fixes if fix.helps)


def test_a_cause_that_no_fix_reaches_is_left() -> None:
    """The slope is given at the call: no default changes it."""
    torch_net, flax_net, _, data = CASES["leaky relu"]
    fixes = fixes_of(torch_net, flax_net, data)
    assert len(fixes) == 5
    assert not any(fix.helps for fix in fixes)


def test_statistics_of_a_layer_that_is_given_other_values_follow_from_what_gives_them() -> None:
    port = small_port(
        torch_model=lambda: TorchNet(nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.BatchNorm1d(SIZE)), torch.tanh),
        jax_model=lambda: FlaxNet(
            lambda rngs: nnx.Sequential(
                nnx.Linear(SIZE, SIZE, rngs=rngs), jax.nn.sigmoid, nnx.BatchNorm(SIZE, momentum=0.9, rngs=rngs, **SLOW)
            ),
            jnp.tanh,
        ),
        batches=batches,
        optimizer=ct.sgd(0.1),
        total_steps=1,
    )
    a, b, matching = port.sides()
    assert matching.complete
    found = compare(a, b, total_steps=1, free_steps=2).findings
    statistics = {finding.cause for finding in found if "running" in finding.where}
    assert statistics == {f"follows from {found[0].where}"}, [str(each) for each in found]


def test_gradients_of_another_loss_follow_from_it() -> None:
    def smoothed(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.cross_entropy(model(batch["x"]), batch["label"], label_smoothing=0.1)

    port = small_port(jax_loss=smoothed, optimizer=ct.sgd(0.1), total_steps=1)
    a, b, _ = port.sides()
    found = compare(a, b, total_steps=1, free_steps=2).findings
    assert found[0].channel == "loss"
    causes = {finding.cause for finding in found if finding.channel == "backward"}
    assert causes == {"follows from the loss"}, [str(each) for each in found]


def test_a_setting_that_cannot_be_changed_is_not_said_to_be_no_help() -> None:
    fixes = fixes_of(
        lambda: TorchNet(nn.GroupNorm(2, SIZE), lambda x: x),
        lambda: FlaxNet(norm(nnx.GroupNorm, num_groups=3, epsilon=1e-5), lambda x: x),
    )
    assert fixes
    assert not any("groups" in fix.text for fix in fixes)
