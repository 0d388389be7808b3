"""Lion; see `crosstrain.optim.Lion`."""

import torch

from crosstrain.optim import Lion
from crosstrain_torch.optim.base import Foreach, Group, Kept, Rule, Tensors, Traced, column, decay_and_add, set_beta1


class LionOptimizer(Foreach):
    """The update; groups carry `betas`."""

    def update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        """See `Foreach`."""
        b1, b2 = group["betas"]
        momenta = column(kept, "momentum")
        directions = list(torch._foreach_mul(momenta, b1))
        torch._foreach_add_(directions, grads, alpha=1.0 - b1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(momenta, b2)
        torch._foreach_add_(momenta, grads, alpha=1.0 - b2)
        decay_and_add(group, params, directions, group["lr"])


def _build(spec: Lion, groups: list[Group]) -> torch.optim.Optimizer:
    return LionOptimizer(groups, betas=(spec.momentum_at(0), spec.betas[1]))


def _start(spec: Lion, param: torch.Tensor, kind: str) -> Kept:
    return {"momentum": torch.zeros_like(param)}


def _numbers(spec: Lion, rate: float, momentum: float, count: int) -> tuple[float, ...]:
    return rate, momentum, spec.betas[1]


def _trace(group: Group, params: Tensors, grads: Tensors, kept: list[Kept], numbers: Tensors) -> None:
    rate, b1, b2 = numbers
    momenta = column(kept, "momentum")
    directions = torch._foreach_add(torch._foreach_mul(momenta, b1), torch._foreach_mul(grads, 1.0 - b1))
    torch._foreach_sign_(directions)
    torch._foreach_mul_(momenta, b2)
    torch._foreach_add_(momenta, torch._foreach_mul(grads, 1.0 - b2))
    if group["weight_decay"]:
        torch._foreach_add_(directions, params, alpha=group["weight_decay"])
    torch._foreach_sub_(params, torch._foreach_mul(directions, rate))


LION = Rule(_build, _start, {"momentum": "momentum"}, set_beta1, traced=Traced(_numbers, _trace, 3))
