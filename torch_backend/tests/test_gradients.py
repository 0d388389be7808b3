"""Gradients that lie in a torch model before a step are no part of it, and parameters that get none are told apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import crosstrain as ct

RANDOM = np.random.default_rng(0)
BATCH = {"x": RANDOM.normal(size=(8, 4)), "label": RANDOM.integers(0, 3, 8)}


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["x"]), batch["label"])


class _Failing:
    """A loss function that fails in its third call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Any, batch: Any, ops: ct.Ops) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise MemoryError
        return loss_fn(model, batch, ops)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def own_backward(accelerator: ct.Accelerator, state: Any) -> None:
    state.model(torch.from_numpy(BATCH["x"])).square().sum().backward()


def failed_step(accelerator: ct.Accelerator, state: Any) -> None:
    with pytest.raises(MemoryError):
        accelerator.train_step(_Failing(), accumulate_steps=4)(state, BATCH)


def by_step(accelerator: ct.Accelerator, state: Any) -> float:
    return accelerator.train_step(loss_fn, accumulate_steps=2, grad_norm=True)(state, BATCH)["grad_norm"]


def by_gradients(accelerator: ct.Accelerator, state: Any) -> float:
    return accelerator.value_and_grad(loss_fn)(state, BATCH)[1].global_norm()


@pytest.mark.parametrize("before", [own_backward, failed_step])
@pytest.mark.parametrize("norm_of", [by_step, by_gradients])
def test_gradients_that_were_left_are_not_added(before: Callable[..., None], norm_of: Callable[..., float]) -> None:
    accelerator = ct.Accelerator("torch", precision="fp64")
    state, clean = (accelerator.prepare(net(), ct.sgd(0.1)) for _ in range(2))
    before(accelerator, state)
    assert norm_of(accelerator, state) == norm_of(accelerator, clean)
