"""Adam and AdamW; see `crosstrain.optim.Adam`."""

import torch

from crosstrain.optim import Adam
from crosstrain_torch.optim.base import Group, Kept, Rule, Tensors, column, set_beta1, start_step

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


ADAM = Rule(_adam, _start_fused, MOMENTS, set_beta1)
ADAMW = Rule(_adamw, _start_fused, MOMENTS, set_beta1)
