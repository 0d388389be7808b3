"""Adam and AdamW; see `crosstrain.optim.Adam`."""

import torch

from crosstrain.optim import Adam
from crosstrain_torch.optim.base import Group, Kept, Rule, Tensors, Traced, column, set_beta1, start_step

MOMENTS = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def start(spec: Adam, param: torch.Tensor, kind: str) -> Kept:
    """Moments of zero, under torch's names."""
    return {"step": start_step(), "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}


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


def _start_fused(spec: Adam, param: torch.Tensor, kind: str) -> Kept:
    return start(spec, param, kind) | {"step": start_step(param.device)}


def _adam(spec: Adam, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.0, betas=betas_of(spec), eps=spec.eps, fused=True)


def _adamw(spec: Adam, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=betas_of(spec), eps=spec.eps, fused=True)


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
