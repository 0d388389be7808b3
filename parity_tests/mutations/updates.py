"""Bugs in an optimizer or in the step around it, planted in a live torch side."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from crosstrain.optim.clipping import Clipping
from crosstrain.parity.side import Live
from crosstrain_torch import optim


def groups(**values: Any) -> Callable[[Live], None]:
    """Changes the native optimizer behind the spec's back."""

    def change(live: Live) -> None:
        for group in live.state.native_optimizer.param_groups:
            group.update(values)

    return change


def around_step(function: Callable[[Any, Callable[[], Any]], None]) -> Callable[[Live], None]:
    """Wraps the native optimizer's step: `function(optimizer, step)`."""

    def change(live: Live) -> None:
        optimizer = live.state.native_optimizer
        original = optimizer.step
        optimizer.step = lambda *_: function(optimizer, original)

    return change


def no_bias_correction(optimizer: Any, step: Callable[[], Any]) -> None:
    for group in optimizer.param_groups:
        group["count"] = 10**6
    step()


@torch.no_grad()
def decay_after_update(optimizer: Any, step: Callable[[], Any]) -> None:
    step()
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.mul_(1 - group["lr"] * 0.01)


@torch.no_grad()
def first_parameter_twice(optimizer: Any, step: Callable[[], Any]) -> None:
    param = optimizer.param_groups[0]["params"][0]
    old = param.clone()
    step()
    param.add_(param - old)


@torch.no_grad()
def adamw_step(optimizer: Any, direction: Callable[[Any, Any, dict[str, Any]], Any]) -> None:
    """AdamW by hand; `direction(m, v, group)` of the corrected moments."""
    for group in optimizer.param_groups:
        b1, b2 = group["betas"]
        for param in group["params"]:
            state = optimizer.state[param]
            t = group["count"]
            m = state["exp_avg"].mul_(b1).add_(param.grad, alpha=1 - b1)
            v = state["exp_avg_sq"].mul_(b2).addcmul_(param.grad, param.grad, value=1 - b2)
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.sub_(group["lr"] * direction(m / (1 - b1**t), v / (1 - b2**t), group))


def eps_root(eps: float) -> Callable[[Any, Callable[[], Any]], None]:
    """optax's `eps_root`, inside the root."""

    def step(optimizer: Any, _: Callable[[], Any]) -> None:
        adamw_step(optimizer, lambda m, v, group: m / ((v + eps).sqrt() + group["eps"]))

    return step


@torch.no_grad()
def rmsprop_eps_root(optimizer: Any, _: Callable[[], Any]) -> None:
    for group in optimizer.param_groups:
        for param in group["params"]:
            v = optimizer.state[param]["square_avg"]
            v.mul_(group["alpha"]).addcmul_(param.grad, param.grad, value=1 - group["alpha"])
            param.sub_(group["lr"] * param.grad / (v + group["eps"]).sqrt())


def swapped_betas(optimizer: Any, step: Callable[[], Any]) -> None:
    """Lion's sign is taken of the average that its momentum should become, and the other way round."""
    kept = [group["betas"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["betas"] = group["betas"][::-1]
    step()
    for group, betas in zip(optimizer.param_groups, kept, strict=True):
        group["betas"] = betas


def respecified(**values: Any) -> Callable[[Live], None]:
    """Gives a native optimizer that reads its spec another one."""

    def change(live: Live) -> None:
        optimizer = live.state.native_optimizer
        optimizer._spec = dataclasses.replace(optimizer._spec, **values)

    return change


def muon_scale(factor: float) -> Callable[[Live], None]:
    def change(live: Live) -> None:
        optimizer = live.state.native_optimizer
        original = optimizer._orthogonalised
        optimizer._orthogonalised = lambda *inputs: [factor * each for each in original(*inputs)]

    return change


def average(spec: Any) -> Callable[[Live], None]:
    """The state averages otherwise than its side says."""
    return lambda live: setattr(live.state, "_average", spec)


def clip(limit: float) -> Callable[[Live], None]:
    def change(live: Live) -> None:
        live._step._run._clipping = Clipping(norm=limit)

    return change


def summed_gradients(live: Live) -> None:
    """Gradients of micro-batches are added up, as a bare loop of `backward` does."""
    gradient = live._step._run._gradient
    accumulate = gradient._accumulate

    def run(objective: Any, state: Any, batch: Any, others: Any) -> Any:
        outputs = accumulate(objective, state, batch, others)
        torch._foreach_mul_(state.collect_gradients(), 2.0)
        return outputs

    gradient._accumulate = run


def clipped_before_averaging(live: Live) -> None:
    """The limit is held to the sum over micro-batches, which is then averaged."""
    gradient = live._step._run._gradient
    accumulate, options = gradient._accumulate, live.side.options

    def run(objective: Any, state: Any, batch: Any, others: Any) -> Any:
        outputs = accumulate(objective, state, batch, others)
        grads = state.collect_gradients()
        norm = optim.global_norm(state.learning.now, state.shards) * options.accumulate_steps
        torch._foreach_mul_(grads, torch.clamp(options.clip_norm / norm, max=1.0))
        return outputs

    gradient._accumulate = run
