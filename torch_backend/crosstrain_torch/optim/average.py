"""Averages of the weights; see `crosstrain.optim.Averaging`."""

from collections.abc import Collection

import torch


def update_average(averages: list[torch.Tensor], params: list[torch.Tensor], weight: float | torch.Tensor) -> None:
    """a = a + weight (p - a), in place; the weight is a tensor in a compiled step."""
    if isinstance(weight, torch.Tensor):
        torch._foreach_add_(averages, torch._foreach_mul(torch._foreach_sub(params, averages), weight))
    else:
        torch._foreach_lerp_(averages, params, weight)


def pull(params: list[torch.Tensor], averages: list[torch.Tensor], held: Collection[torch.Tensor]) -> None:
    """p = a in place, but for the parameters in `held`."""
    pairs = [(p.detach(), a) for p, a in zip(params, averages, strict=True) if p not in held]
    if pairs:
        torch._foreach_copy_([p for p, _ in pairs], [a for _, a in pairs])
