"""Averages of the weights; see `crosstrain.optim.Averaging`."""

import torch


def update_average(averages: list[torch.Tensor], params: list[torch.Tensor], weight: float | torch.Tensor) -> None:
    """a = a + weight (p - a), in place; the weight is a tensor in a compiled step."""
    if isinstance(weight, torch.Tensor):
        torch._foreach_add_(averages, torch._foreach_mul(torch._foreach_sub(params, averages), weight))
    else:
        torch._foreach_lerp_(averages, params, weight)
