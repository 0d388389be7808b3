"""Replicas of a model over processes: DDP, made once a step has shown which parameters its loss reaches."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.utils import _sync_module_states, _verify_param_shape_across_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from crosstrain.data.loader import WEIGHT
from crosstrain.errors import LossError
from crosstrain.loss import Loss
from crosstrain.precision import Precision
from crosstrain_torch.objective import Batch, Objective
from crosstrain_torch.reduction import compress

# torch 2.13 has a new name for it, and warns of the old one.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)
_BROADCAST_BYTES = 250 << 20


class LossOnly(Objective):
    """An objective whose only gradient is the loss's: DDP waits for all that its outputs reach."""

    def forward(self, batch: Batch) -> Any:
        """What `loss_fn` returns, metrics and weights without their gradients."""
        result = super().forward(batch)
        pair = isinstance(result, tuple) and not isinstance(result, Loss) and len(result) == 2
        loss, metrics = result if pair else (result, {})
        loss = Loss(loss.sum, _detached(loss.weight)) if isinstance(loss, Loss) else loss
        return (loss, tree_map(_detached, metrics)) if pair else loss


class Replicas:
    """An objective for the steps of one state over several processes.

    DDP adds up gradients while the backward pass runs. It has to know whether every process reaches every parameter:
    the first step on batches of some fields finds out, and is reduced without it.

    Args:
        make: gives an objective of a class.
        learning: the parameters that the steps update.
        frozen: those of further models, which the steps only read.
        precision: gradients are added up in its `reduce_dtype`.
        device: of this process.
        group: of the processes.
    """

    def __init__(
        self,
        make: Callable[[type[Objective]], Objective],
        learning: Sequence[torch.Tensor],
        frozen: Iterable[nn.Parameter],
        precision: Precision,
        device: torch.device,
        group: dist.ProcessGroup,
    ) -> None:
        self._make, self._learning, self._frozen = make, list(learning), list(frozen)
        self._precision, self._device, self._group = precision, device, group
        self._plain = make(Objective)
        self._reaches_all: dict[frozenset[str], bool] = {}
        self._wrapped: dict[bool, DistributedDataParallel] = {}
        tensors = list(self._plain.parameters())
        _verify_param_shape_across_processes(group, tensors)
        _sync_module_states(self._plain, group, _BROADCAST_BYTES, src=0, params_and_buffers_to_ignore=())

    def objective(self, batch: Batch) -> nn.Module:
        """DDP, or the plain objective for the first step on batches of these fields."""
        reaches_all = self._reaches_all.get(_fields(batch))
        if reaches_all is None:
            return self._plain
        if reaches_all not in self._wrapped:
            self._wrapped[reaches_all] = self._wrap(reaches_all)
        return self._wrapped[reaches_all]

    def reaches_all(self, loss: torch.Tensor) -> bool:
        """Whether the graph of a loss ends in every parameter that learns."""
        seen: set[Any] = set()
        found: set[int] = set()
        waiting = [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(id(node.variable))
            waiting += [following for following, _ in node.next_functions]
        return found.issuperset(map(id, self._learning))

    def settle(self, batch: Batch, reaches_all: bool) -> None:
        """Takes note of what a first step found here; all processes go on in the same way."""
        flag = torch.tensor(int(reaches_all), dtype=torch.int32, device=self._device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=self._group)
        self._reaches_all[_fields(batch)] = bool(flag.item())

    def require_reached(self, objective: nn.Module) -> None:
        """Refuses gradients that DDP waited for in vain, and so did not add up.

        Raises:
            LossError: says how many.
        """
        if not isinstance(objective, DistributedDataParallel) or objective.find_unused_parameters:
            return
        missing = sum(param.grad is None for param in self._learning)
        if missing:
            raise LossError(
                "a loss must reach the same parameters in every batch of the same fields where processes are replicas, "
                f"got {missing} of {len(self._learning)} that it no longer reaches. Leave one parameter out of the "
                "loss of the first step too, give such batches another field, or use fsdp instead of data."
            )

    def _wrap(self, reaches_all: bool) -> DistributedDataParallel:
        frozen = [param for param in self._frozen if param.requires_grad]
        for param in frozen:
            param.requires_grad_(False)
        try:
            replicas = DistributedDataParallel(
                self._plain if reaches_all else self._make(LossOnly),
                device_ids=[self._device] if self._device.type == "cuda" else None,
                process_group=self._group,
                gradient_as_bucket_view=True,
                find_unused_parameters=not reaches_all,
                init_sync=False,
                **{_SYNC_BUFFERS: False},
            )
            compress(replicas, self._precision, self._group)
            return replicas
        finally:
            for param in frozen:
                param.requires_grad_(True)


def without_sync(objective: nn.Module) -> Any:
    """Gradients of backward passes inside are added up in this process only."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else contextlib.nullcontext()


def _fields(batch: Batch) -> frozenset[str]:
    """What batches are told apart by: a process that has no padding need not have weights."""
    return frozenset(batch) - {WEIGHT}


def _detached(value: Any) -> Any:
    return value.detach() if torch.is_tensor(value) else value
