"""Collectives of the torch engine over its process group, and the one that gradients flow through."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes whose gradient is the sum of the gradients: the loss of the run is the sum of all losses."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return all_reduce(values, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return all_reduce(grads[0], ctx.group), None


def all_reduce_autograd(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum of `values` over the processes; differentiable."""
    return _AllReduceSum.apply(values, group)


def all_reduce(values: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum of `values` over the processes, in a new tensor."""
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def all_gather(values: np.ndarray, group: dist.ProcessGroup, device: torch.device) -> np.ndarray:
    """The rows of all processes, in their order. Every process gives the same number of rows."""
    local = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    return np.concatenate([part.cpu().numpy() for part in parts])
