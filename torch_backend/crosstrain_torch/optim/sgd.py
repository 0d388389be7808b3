"""Stochastic gradient descent; see `crosstrain.optim.Sgd`."""

import torch

from crosstrain.optim import Sgd
from crosstrain_torch.optim.base import NEARLY_ZERO, Group, Kept, Rule


def _build(spec: Sgd, groups: list[Group]) -> torch.optim.Optimizer:
    momentum = 0.0 if spec.momentum == 0 else spec.momentum_at(0) or NEARLY_ZERO
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=spec.nesterov, fused=True)


def _start(spec: Sgd, param: torch.Tensor, kind: str) -> Kept:
    return {"momentum_buffer": torch.zeros_like(param)} if spec.momentum != 0 else {}


def set_momentum(group: Group, momentum: float) -> None:
    """Puts this step's momentum into a group that has one."""
    group["momentum"] = momentum or (NEARLY_ZERO if group["momentum"] else 0.0)


SGD = Rule(_build, _start, {"momentum": "momentum_buffer"}, set_momentum)
