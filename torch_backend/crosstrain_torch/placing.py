"""Puts a native model on the devices: types, memory format, statistics of the global batch, and the sharding plan."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from crosstrain.errors import ConfigError
from crosstrain.precision import Precision
from crosstrain.sharding import ShardingPlan
from crosstrain_torch import experts, fsdp, naming, stages, tensor
from crosstrain_torch.materialise import Blueprint
from crosstrain_torch.models.layers import BatchNorm, Dropout, synchronise
from crosstrain_torch.precision import param_dtype
from crosstrain_torch.sharding import Mesh


def place(
    model: nn.Module, plan: ShardingPlan, mesh: Mesh, precision: Precision, device: torch.device
) -> frozenset[nn.Parameter]:
    """Places a model, in place, and returns the parameters that FSDP gathers and reduces.

    Raises:
        ConfigError: a layer that cannot be split as the plan says, or a model that is split already; nothing has been
            changed.
    """
    if any(isinstance(param, DTensor) for param in model.parameters()):
        raise ConfigError(
            f"a model must be prepared once where it is split over a mesh, got a {type(model).__name__} that is split "
            "already. Build a second one, and load the first one's state.snapshot() into its state."
        )
    _require_sequences(model, mesh)
    stages.require_stages(model, mesh)
    experts.require_experts(model, plan, mesh)
    tensor.styles(model, plan)
    blueprint = Blueprint(model)
    model.to(dtype=param_dtype(precision), device=None if blueprint.is_needed else device)
    if plan.is_trivial and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.group = mesh.losses
        elif mesh.losses is not None and isinstance(module, _BatchNorm) and not _is_synchronised(module, device):
            synchronise(module, mesh.losses)
        elif isinstance(module, Dropout):
            module.part = mesh.index("tensor")
        if hasattr(module, "sequence_part"):
            module.sequence_part = mesh.sequence
        if hasattr(module, "stage_shapes"):
            module.stage = mesh.stage
        if hasattr(module, "expert_part"):
            module.expert_part = mesh.experts
    elsewhere = stages.elsewhere(plan, mesh)
    absent = stages.leave_out(model, elsewhere)
    along = mesh.along("tensor")
    if along is not None:
        tensor.split(model, plan, along, absent)
    experts.split(model, plan, mesh)
    gathered = fsdp.shard(model, plan, mesh, precision, elsewhere)
    if blueprint.is_needed:
        blueprint.fill(device, absent)
    params = naming.parameters(model)
    return frozenset(params[name] for name in gathered)


def _require_sequences(model: nn.Module, mesh: Mesh) -> None:
    if mesh.sequence is not None and not hasattr(model, "sequence_part"):
        raise ConfigError(
            f"a model must handle sequences of which each process has a part, got a {type(model).__name__} without "
            f"sequence_part on context={mesh.sequence.parts}. Use context=1, or give the class "
            "`sequence_part = None`, which prepare sets, and use causal_attention(..., part=self.sequence_part) and "
            "positions from it, as crosstrain_torch.models.gpt does."
        )


def _is_synchronised(module: _BatchNorm, device: torch.device) -> bool:
    """torch's SyncBatchNorm works on CUDA devices only."""
    return isinstance(module, nn.SyncBatchNorm) and device.type == "cuda"
