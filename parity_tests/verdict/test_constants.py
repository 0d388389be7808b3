"""Buffers that training leaves alone are constants of one model: a mask, a table of positions, on either engine."""

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
from crosstrain.parity import Port, Report, assert_same_training, examine
from parity_tests.verdict.small_port import small_port

FEATURES, CLASSES = 6, 3
Table = np.ndarray | None
TABLE = np.sin(np.arange(FEATURES, dtype=np.float32))


class TorchNet(nn.Module):
    def __init__(self, table: Table, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head = nn.Linear(FEATURES, 8, bias=bias), nn.Linear(8, CLASSES)
        self.norm = nn.BatchNorm1d(8)
        self.keeps = table is not None
        if self.keeps:
            self.register_buffer("table", torch.tensor(table))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = self.table if self.keeps else torch.tensor(TABLE)
        return self.head(torch.tanh(self.norm(self.fc(x + table))))


class Norm(nnx.Module):
    """torch's BatchNorm1d, or one that forgets its running statistics."""

    def __init__(self, *, updates: bool) -> None:
        self.weight, self.bias = nnx.Param(jnp.ones(8)), nnx.Param(jnp.zeros(8))
        self.running_mean, self.running_var = nnx.BatchStat(jnp.zeros(8)), nnx.BatchStat(jnp.ones(8))
        self.updates = updates

    def __call__(self, x: jax.Array) -> jax.Array:
        mean, var = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        if self.updates:
            unbiased = var * len(x) / (len(x) - 1)
            self.running_mean[...] = 0.9 * self.running_mean[...] + 0.1 * mean
            self.running_var[...] = 0.9 * self.running_var[...] + 0.1 * unbiased
        return (x - mean) / jnp.sqrt(var + 1e-5) * self.weight[...] + self.bias[...]


class FlaxNet(nnx.Module):
    def __init__(self, table: Table, *, updates: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.fc, self.head = nnx.Linear(FEATURES, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.norm = Norm(updates=updates)
        self.table = None if table is None else nnx.Variable(jnp.asarray(table))

    def __call__(self, x: jax.Array) -> jax.Array:
        table = jnp.asarray(TABLE) if self.table is None else self.table[...]
        return self.head(jnp.tanh(self.norm(self.fc(x + table))))


def batches(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {"x": draw.normal(size=(8, FEATURES)), "label": draw.integers(0, CLASSES, 8).astype(np.int32)}


def port(torch_model: Callable[[], Any], jax_model: Callable[[], Any]) -> Port:
    return small_port(
        torch_model=torch_model,
        jax_model=jax_model,
        batches=batches,
        optimizer=ct.sgd(1e-2),
        total_steps=2,
    )


def report_of(torch_model: Callable[[], Any], jax_model: Callable[[], Any]) -> Report:
    return examine(port(torch_model, jax_model), free_steps=2, low_precision=False)


NOTE = "buffers that no training step changes are constants of their own model, and were not matched: "


@pytest.mark.parametrize(
    ("mine", "theirs", "named"),
    [
        (TABLE, None, "table (torch)"),
        (None, TABLE, "table (jax)"),
        (TABLE, TABLE, ""),
        (TABLE, TABLE * np.float32(1 + 2e-7), ""),
    ],
    ids=["torch alone", "jax alone", "both", "rounded otherwise"],
)
def test_a_constant_of_one_model_needs_no_partner(mine: Table, theirs: Table, named: str) -> None:
    report = report_of(lambda: TorchNet(mine), lambda: FlaxNet(theirs))
    assert report.same, report
    assert report.notes == ((NOTE + named,) if named else ())


def test_another_table_of_the_same_name_is_found() -> None:
    """The port keeps its own table, and is not given the reference's."""
    report = report_of(lambda: TorchNet(TABLE), lambda: FlaxNet(TABLE[::-1].copy()))
    assert report.notes[0] == NOTE + "table (torch); table (jax)"
    first = report.verdict.first
    assert (first.channel, first.where) == ("activation", "between the input of (model) and fc")


def test_a_port_that_forgets_its_running_statistics_is_found() -> None:
    report = report_of(lambda: TorchNet(None), lambda: FlaxNet(None, updates=False))
    assert {finding.where for finding in report.verdict.findings} >= {"norm.running_mean", "norm.running_var"}


def test_a_missing_bias_is_named_and_no_hint_is_asked_for() -> None:
    made = port(lambda: TorchNet(None, bias=False), lambda: FlaxNet(None))
    with pytest.raises(
        AssertionError, match=r"could not be matched: only the jax model has fc.bias: take it away there"
    ):
        assert_same_training(made)
