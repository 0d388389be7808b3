"""Sums over processes outside of FSDP's and DDP's own, and the type that gradients are added up in on the way."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from crosstrain.precision import Precision


def reduce_dtype(precision: Precision) -> torch.dtype | None:
    """The type that gradients are sent in; None for their own."""
    return torch.bfloat16 if precision.reduces_narrowly else None


def compress(replicas: DistributedDataParallel, precision: Precision, group: dist.ProcessGroup) -> None:
    """Has DDP send its buckets in the type that the precision asks for."""
    if reduce_dtype(precision) is not None:
        replicas.register_comm_hook(group, _compressed)


def _compressed(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """torch's hook under another name: by its own DDP refuses it without CUDA, where gloo can do it too."""
    return bf16_compress_hook(group, bucket)


def reduce_sum(tensors: Iterable[torch.Tensor], group: dist.ProcessGroup, dtype: torch.dtype | None = None) -> None:
    """Adds up tensors over the processes, in place, in buckets of one type and about 25 MiB as DDP's.

    Args:
        tensors: of any types.
        group: of the processes.
        dtype: the type on the way; None for their own.
    """
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(each.nbytes for each in bucket) >= 25 << 20):
            _reduce_bucket(bucket, group, dtype)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _reduce_bucket(bucket, group, dtype)


def _reduce_bucket(bucket: list[torch.Tensor], group: dist.ProcessGroup, dtype: torch.dtype | None) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    flat = flat if dtype is None else flat.to(dtype)
    dist.all_reduce(flat, group=group)
    for tensor, values in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(values.view_as(tensor))
