"""Collectives of the torch engine over its process group, and those that gradients flow through."""

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


class _AllGather(torch.autograd.Function):
    """End to end along a dimension; a part's gradient is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, dimension: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dimension, ctx.group = dimension, group
        return all_gather_along(values, dimension, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        parts = grads[0].chunk(dist.get_world_size(ctx.group), ctx.dimension)
        mine = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        dist.reduce_scatter(mine, [part.contiguous() for part in parts], group=ctx.group)
        return mine, None, None


def all_gather_autograd(values: torch.Tensor, dimension: int, group: dist.ProcessGroup) -> torch.Tensor:
    """What the processes have, end to end along a dimension in their order; differentiable."""
    return _AllGather.apply(values, dimension, group)


class _AllToAll(torch.autograd.Function):
    """Rows to other processes; the gradients of those that came go back."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, outgoing: list[int], incoming: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.outgoing, ctx.incoming, ctx.group = outgoing, incoming, group
        return all_to_all(values, group, outgoing, incoming)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return all_to_all(grads[0], ctx.group, ctx.incoming, ctx.outgoing), None, None, None


def all_to_all_autograd(
    values: torch.Tensor, outgoing: list[int], incoming: list[int], group: dist.ProcessGroup
) -> torch.Tensor:
    """So many rows to each process, and so many from each, in their order; differentiable."""
    return _AllToAll.apply(values, outgoing, incoming, group)


def all_to_all(
    values: torch.Tensor,
    group: dist.ProcessGroup,
    outgoing: list[int] | None = None,
    incoming: list[int] | None = None,
) -> torch.Tensor:
    """Rows to each process and from each, in their order: as many for all, or so many."""
    received = values.new_empty((len(values) if incoming is None else sum(incoming), *values.shape[1:]))
    dist.all_to_all_single(received, values.contiguous(), incoming, outgoing, group=group)
    return received


def all_gather_along(values: torch.Tensor, dimension: int, group: dist.ProcessGroup) -> torch.Tensor:
    """What the processes have, end to end along a dimension in their order."""
    local = values.contiguous()
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    return torch.cat(parts, dimension)


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
