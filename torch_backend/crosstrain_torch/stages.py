"""Which blocks of a model on a pipeline a process holds, and how whole arrays come together from all stages.

Parameters of other stages stay in the model on the meta device, so that every process knows the names, shapes and roles
of all of them, and none has their memory.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from crosstrain.errors import ConfigError
from crosstrain.sharding import ShardingPlan
from crosstrain_torch.sharding import Mesh, Stage
from crosstrain_torch.shards import whole


def require_stages(model: nn.Module, mesh: Mesh) -> None:
    """Refuses a model that cannot run in stages.

    Raises:
        ConfigError: says what it needs.
    """
    if mesh.stage is not None and not hasattr(model, "stage_shapes"):
        raise ConfigError(
            f"a model must run in stages, got a {type(model).__name__} on pipeline={mesh.stage.count}. Use pipeline=1, "
            "or the paired gpt: its forward takes what the stage before has returned, and its config names the blocks."
        )


def elsewhere(plan: ShardingPlan, mesh: Mesh) -> frozenset[str]:
    """Canonical names of the parameters that only other stages hold."""
    return frozenset() if mesh.stage is None else frozenset(plan.params.keys() - plan.of_stage(mesh.stage.index).keys())


def leave_out(model: nn.Module, names: frozenset[str]) -> frozenset[nn.Parameter]:
    """Frees these parameters, in place; returns what stands for them, on the meta device."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        param = owner.get_parameter(leaf)
        if not param.is_meta:
            owner.register_parameter(leaf, nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad))
    return frozenset(model.get_parameter(name) for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holders:
    """Who holds which parameter, its moments and its average.

    Attributes:
        plan: of the model.
        stage: of this process; None where there is no pipeline.
        device: where arrays of other stages are received.
    """

    plan: ShardingPlan
    stage: Stage | None
    device: torch.device

    def whole(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor of a parameter, on every process; what is no parameter's is here.

        A collective where it is split, or where other stages hold it: every process calls it in the same order.
        """
        param = self.plan.params.get(name)
        if self.stage is None or param is None or param.stage is None:
            return whole(tensor)
        # What is not here is whole: nothing splits a tensor that has no memory.
        values = torch.empty_like(tensor, device=self.device) if tensor.is_meta else whole(tensor).contiguous()
        dist.broadcast(values, group=self.stage.group, group_src=param.stage)
        return values

    def is_shared(self, name: str) -> bool:
        """Whether every stage holds a parameter, so that its gradient is a sum over them."""
        return self.stage is not None and self.plan.params[name].stage is None
