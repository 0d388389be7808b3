"""Gradients left in a torch model are no part of a step; parameters without any, and modules with two names."""

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


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}, {"compile": "model"}, {"compile": "step"}], ids=str)
@pytest.mark.parametrize("path", ["0.bias", ""])
def test_a_parameter_that_is_frozen_by_hand_is_refused_and_stays(options: dict[str, Any], path: str) -> None:
    """Its gradient would be taken for zero, and weight decay and momentum go on."""
    accelerator = ct.Accelerator("torch", precision="fp64")
    state = accelerator.prepare(net(), ct.adamw(0.1, weight_decay=0.1))
    step = accelerator.train_step(loss_fn, **options)
    step(state, BATCH)
    before = state.snapshot().params
    for name, param in state.model.named_parameters():
        param.requires_grad_(not name.startswith(path))
    for _ in range(2):
        with pytest.raises(ct.ConfigError, match=r"got requires_grad=False of .* Use state.freeze\('0\."):
            step(state, BATCH)
    assert state.step == 1
    for name, values in state.snapshot().params.items():
        np.testing.assert_array_equal(values, before[name])


def test_a_parameter_that_is_frozen_by_hand_is_not_taken_up_again_with_the_others() -> None:
    accelerator = ct.Accelerator("torch", precision="fp64")
    state = accelerator.prepare(net(), ct.adamw(0.1))
    step = accelerator.train_step(loss_fn)
    state.model[0].bias.requires_grad_(False)
    state.freeze("weight")
    with pytest.raises(ct.ConfigError, match=r"got requires_grad=False of 0\.bias \(1 in all\)"):
        step(state, BATCH)


@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}], ids=str)
def test_a_head_that_comes_after_prepare_is_named(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """A loss that falls all the same hides that it does not learn, and that snapshots have the old one."""
    accelerator = ct.Accelerator("torch")
    state = accelerator.prepare(net(), ct.sgd(0.1))
    accelerator.train_step(loss_fn, **options)(state, BATCH)
    assert not caplog.records
    state.model[2] = nn.Linear(8, 5)
    state.model.add_module("teacher", net().requires_grad_(False))
    step = accelerator.train_step(lambda model, batch, ops: loss_fn(model[:3], batch, ops), **options)
    step(state, BATCH), step(state, BATCH)
    (record,) = caplog.records
    assert record.getMessage().startswith("2.weight (2 in all) came into the model after accelerator.prepare")


def imitating(model: Any, batch: Any, ops: ct.Ops, other: Any) -> Any:
    return ops.mse(model(batch["x"]), other(batch["x"]))


@pytest.mark.parametrize("make", ["train_step", "value_and_grad"])
def test_states_that_share_a_module_are_refused_together_and_learn_alone(make: str) -> None:
    """What is shared would stand still as a part of the other model, and so in the one that learns."""
    accelerator = ct.Accelerator("torch", precision="fp64")
    shared = nn.Linear(4, 8)
    state, other = (accelerator.prepare(nn.Sequential(shared, nn.Linear(8, 3)), ct.sgd(0.1)) for _ in range(2))
    step = getattr(accelerator, make)(imitating)
    with pytest.raises(ct.ConfigError, match=r"share no parameter .* got 0\.weight \(2 in all\) in both"):
        step(state, BATCH, other)
    assert accelerator.value_and_grad(loss_fn)(state, BATCH)[1].to_host()["0.weight"].any()
    step(state, BATCH, accelerator.prepare(net()))


class Twice(nn.Module):
    """One block under two names, with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.second, self.head = self.first, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)))


@pytest.mark.parametrize(("precision", "limit"), [("fp64", 1e-12), ("bf16", 2e-2)])
def test_a_module_with_two_names_learns_as_in_a_plain_loop(precision: str, limit: float) -> None:
    """Also where an average, or narrower weights, stand in for its own."""
    accelerator = ct.Accelerator("torch", platform="cpu", precision=precision)
    state = accelerator.prepare(Twice(), ct.sgd(0.5), average=ct.ema(0.5))
    step, evaluate = accelerator.train_step(loss_fn), accelerator.eval_step(loss_fn, averaged=True)
    losses = []
    for _ in range(5):
        evaluate(state, BATCH)
        losses.append(step(state, BATCH)["loss"])
    plain = Twice().double()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    expected = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(plain(torch.from_numpy(BATCH["x"])), torch.from_numpy(BATCH["label"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=limit)
    assert all(param is state.params[name] for name, param in state.model.named_parameters())


def test_further_states_that_share_a_module_keep_it() -> None:
    accelerator = ct.Accelerator("torch", platform="cpu")
    shared = Twice()
    before = [*shared.named_parameters(), *shared.named_buffers()]
    others = [accelerator.prepare(shared), accelerator.prepare(nn.Sequential(shared.first, nn.Linear(4, 3)))]

    def imitating(model: Any, batch: Any, ops: ct.Ops, *teachers: Any) -> Any:
        return ops.mse(model(batch["x"]), sum(teacher(batch["x"]) for teacher in teachers))

    accelerator.train_step(imitating)(accelerator.prepare(net(), ct.sgd(0.1)), BATCH, *others)
    after = [*shared.named_parameters(), *shared.named_buffers()]
    assert all(new is old for (_, new), (_, old) in zip(after, before, strict=True))
