"""Adam and AdamW; see `crosstrain.optim.Adam`."""

from collections.abc import Callable
from typing import Any

import torch

from crosstrain.optim import Adam
from crosstrain_torch.optim.base import Foreach, Group, Kept, Rule, Tensors, Traced, column, set_beta1, start_step

MOMENTS = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def start(spec: Adam, param: torch.Tensor, kind: str) -> Kept:
    """Moments of zero, under torch's names."""
    return {"step": start_step(), **_start_fused(spec, param, kind)}


def betas_of(spec: Adam) -> tuple[float, float]:
    """The betas of the first step."""
    return spec.momentum_at(0), spec.betas[1]


def directions_of(grads: Tensors, kept: list[Kept], betas: tuple[float, float], eps: float) -> Tensors:
    """Counts a step, updates the moments and gives (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)."""
    b1, b2 = betas
    first, second = column(kept, "exp_avg"), column(kept, "exp_avg_sq")
    torch._foreach_add_(column(kept, "step"), 1.0)
    counts = [each["step"].item() for each in kept]
    torch._foreach_mul_(first, b1)
    torch._foreach_add_(first, grads, alpha=1.0 - b1)
    torch._foreach_mul_(second, b2)
    torch._foreach_addcmul_(second, grads, grads, 1.0 - b2)
    denominators = torch._foreach_div(second, [1.0 - b2**t for t in counts])
    torch._foreach_sqrt_(denominators)
    torch._foreach_add_(denominators, eps)
    directions = torch._foreach_div(first, [1.0 - b1**t for t in counts])
    torch._foreach_div_(directions, denominators)
    return list(directions)


class _Fused(Foreach):
    """torch's fused kernels. They read the number of the update from a tensor, which is made for all of a group."""

    def __init__(self, groups: list[Group], kernel: Callable[..., None], **defaults: Any) -> None:
        super().__init__(groups, **defaults)
        self._kernel = kernel

    def update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        """One update of these parameters, in place."""
        b1, b2 = group["betas"]
        count = torch.full((), group["count"], dtype=torch.float32, device=params[0].device)
        self._kernel(
            params,
            grads,
            column(kept, "exp_avg"),
            column(kept, "exp_avg_sq"),
            [],
            [count] * len(params),
            amsgrad=False,
            lr=group["lr"],
            beta1=b1,
            beta2=b2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _start_fused(spec: Adam, param: torch.Tensor, kind: str) -> Kept:
    return {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}


def _adam(spec: Adam, groups: list[Group]) -> torch.optim.Optimizer:
    return _Fused(groups, torch._fused_adam_, betas=betas_of(spec), eps=spec.eps)


def _adamw(spec: Adam, groups: list[Group]) -> torch.optim.Optimizer:
    return _Fused(groups, torch._fused_adamw_, betas=betas_of(spec), eps=spec.eps)


def _numbers(spec: Adam, rate: float, momentum: float, count: int) -> tuple[float, ...]:
    return rate, momentum, 1.0 - momentum**count, spec.betas[1], 1.0 - spec.betas[1] ** count


def _trace_adam(group: Group, params: Tensors, grads: Tensors, kept: list[Kept], numbers: Tensors) -> None:
    if group["weight_decay"]:
        torch._foreach_add_(grads, params, alpha=group["weight_decay"])
    _move(group, params, grads, kept, numbers, 0.0)


def _trace_adamw(group: Group, params: Tensors, grads: Tensors, kept: list[Kept], numbers: Tensors) -> None:
    _move(group, params, grads, kept, numbers, group["weight_decay"])


def _move(group: Group, params: Tensors, grads: Tensors, kept: list[Kept], numbers: Tensors, decay: float) -> None:
    rate, b1, first_share, b2, second_share = numbers
    first, second = column(kept, "exp_avg"), column(kept, "exp_avg_sq")
    torch._foreach_mul_(first, b1)
    torch._foreach_add_(first, torch._foreach_mul(grads, 1.0 - b1))
    torch._foreach_mul_(second, b2)
    torch._foreach_add_(second, torch._foreach_mul(torch._foreach_mul(grads, grads), 1.0 - b2))
    denominators = torch._foreach_div(second, second_share)
    torch._foreach_sqrt_(denominators)
    torch._foreach_add_(denominators, group["eps"])
    directions = torch._foreach_div(first, first_share)
    torch._foreach_div_(directions, denominators)
    if decay:
        torch._foreach_add_(directions, params, alpha=decay)
    torch._foreach_sub_(params, torch._foreach_mul(directions, rate))


ADAM = Rule(_adam, _start_fused, MOMENTS, set_beta1, traced=Traced(_numbers, _trace_adam, 5))
ADAMW = Rule(_adamw, _start_fused, MOMENTS, set_beta1, traced=Traced(_numbers, _trace_adamw, 5))
