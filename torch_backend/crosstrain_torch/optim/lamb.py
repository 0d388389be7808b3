"""LAMB; see `crosstrain.optim.Lamb`."""

import torch

from crosstrain.optim import Lamb
from crosstrain_torch.optim.adam import MOMENTS, betas_of, directions_of, start
from crosstrain_torch.optim.base import Foreach, Group, Kept, Rule, Tensors, set_beta1


class LambOptimizer(Foreach):
    """The update; groups carry `betas` and `eps`."""

    def update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        """See `Foreach`."""
        directions = directions_of(grads, kept, group["betas"], group["eps"])
        if group["weight_decay"]:
            torch._foreach_add_(directions, params, alpha=group["weight_decay"])
        lengths, theirs = (self.shards.norms(params, each) for each in (params, directions))
        ratios = torch.where((lengths > 0) & (theirs > 0), lengths / theirs, 1.0)
        torch._foreach_mul_(directions, list(ratios.unbind()))
        torch._foreach_add_(params, directions, alpha=-group["lr"])


def _build(spec: Lamb, groups: list[Group]) -> torch.optim.Optimizer:
    return LambOptimizer(groups, betas=betas_of(spec), eps=spec.eps)


LAMB = Rule(_build, start, MOMENTS, set_beta1)
