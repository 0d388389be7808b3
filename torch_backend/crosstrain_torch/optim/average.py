"""Averages of the weights; see `crosstrain.optim.Averaging`."""

import torch


def update_average(averages: list[torch.Tensor], params: list[torch.Tensor], weight: float) -> None:
    """a = a + weight (p - a), in place."""
    torch._foreach_lerp_(averages, params, weight)
