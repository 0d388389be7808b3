"""Expert parallelism from a sharding plan: the parameters that `expert` splits, each process with its part of them."""

from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from crosstrain.errors import ConfigError
from crosstrain.sharding import EXPERT_AXIS, ShardingPlan
from crosstrain_torch import naming
from crosstrain_torch.sharding import Mesh


def require_experts(model: nn.Module, plan: ShardingPlan, mesh: Mesh) -> None:
    """Refuses a model that does not exchange tokens with other processes, and what splits the same weights further.

    Raises:
        ConfigError: says which parameter.
    """
    for name in names(plan):
        owner = model.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
        if not hasattr(owner, "expert_part") or plan.params[name].dimension(EXPERT_AXIS) != 0:
            raise ConfigError(
                "expert must split whole experts, of a layer that sends them their tokens, got dimension "
                f"{plan.params[name].dimension(EXPERT_AXIS)} of {name} in a {type(owner).__name__}. Use expert=1, or "
                "the paired gpt with experts."
            )
    stacked = [name for name, role in naming.roles(model).items() if role == "experts"]
    if mesh.sizes["tensor"] > 1 and stacked:
        raise ConfigError(
            f"tensor must be 1 for a model with experts on the torch engine, got tensor={mesh.sizes['tensor']} for "
            f"{stacked[0]}. Use expert or fsdp for those devices, or the jax engine."
        )


def names(plan: ShardingPlan) -> list[str]:
    """Canonical names of the parameters that the plan splits over `expert`."""
    return [name for name, param in plan.params.items() if param.dimension(EXPERT_AXIS) is not None]


def split(model: nn.Module, plan: ShardingPlan, mesh: Mesh) -> None:
    """Leaves each process its experts, in place."""
    along = mesh.along(EXPERT_AXIS)
    for name in names(plan) if along is not None else ():
        path, _, leaf = name.rpartition(".")
        owner, dimension = model.get_submodule(path), plan.params[name].dimension(EXPERT_AXIS)
        param = owner.get_parameter(leaf)
        part = distribute_tensor(param.detach(), along, [Shard(dimension or 0)], src_data_rank=None)
        owner.register_parameter(leaf, nn.Parameter(part, requires_grad=param.requires_grad))
