"""Stochastic gradient descent; see `crosstrain.optim.Sgd`."""

import torch

from crosstrain.optim import Sgd
from crosstrain_torch.optim.base import NEARLY_ZERO, Group, Kept, Rule, Tensors, Traced, column


def _build(spec: Sgd, groups: list[Group]) -> torch.optim.Optimizer:
    momentum = 0.0 if spec.momentum == 0 else spec.momentum_at(0) or NEARLY_ZERO
    # A bug of torch (seen in 2.13, aten/native/cpu/FusedSGDKernel.cpp): of bfloat16 on CPUs its fused kernel updates
    # only what is left after the last full vector of values, and most weights stand still.
    broken = any(param.dtype == torch.bfloat16 and param.device.type == "cpu" for g in groups for param in g["params"])
    way = {"foreach": True} if broken else {"fused": True}
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=spec.nesterov, **way)


def _start(spec: Sgd, param: torch.Tensor, kind: str) -> Kept:
    return {"momentum_buffer": torch.zeros_like(param)} if spec.momentum != 0 else {}


def set_momentum(group: Group, momentum: float) -> None:
    """Puts this step's momentum into a group that has one."""
    group["momentum"] = momentum or (NEARLY_ZERO if group["momentum"] else 0.0)


def _numbers(spec: Sgd, rate: float, momentum: float, count: int) -> tuple[float, ...]:
    return rate, momentum


def _trace(group: Group, params: Tensors, grads: Tensors, kept: list[Kept], numbers: Tensors) -> None:
    rate, momentum = numbers
    if group["weight_decay"]:
        torch._foreach_add_(grads, params, alpha=group["weight_decay"])
    directions = grads
    if group["momentum"]:  # of the spec; this step's is a number
        momenta = column(kept, "momentum_buffer")
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, grads)
        directions = (
            list(torch._foreach_add(grads, torch._foreach_mul(momenta, momentum))) if group["nesterov"] else momenta
        )
    torch._foreach_sub_(params, torch._foreach_mul(directions, rate))


SGD = Rule(_build, _start, {"momentum": "momentum_buffer"}, set_momentum, traced=Traced(_numbers, _trace, 2))
