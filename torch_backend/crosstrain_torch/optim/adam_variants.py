"""NAdam and RAdam; see `crosstrain.optim.NAdam` and `RAdam`."""

import torch

from crosstrain.optim import NAdam, RAdam
from crosstrain_torch.optim.adam import MOMENTS, betas_of, start
from crosstrain_torch.optim.base import Group, Kept, Rule, set_beta1


def _nadam(spec: NAdam, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.NAdam(
        groups, lr=0.0, betas=betas_of(spec), eps=spec.eps, momentum_decay=spec.momentum_decay, foreach=True
    )


def _start_nadam(spec: NAdam, param: torch.Tensor, kind: str) -> Kept:
    # torch would keep the product of all mu in float32 beside parameters in float64.
    return start(spec, param, kind) | {"mu_product": torch.ones((), dtype=torch.float64)}


def _radam(spec: RAdam, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.RAdam(groups, lr=0.0, betas=betas_of(spec), eps=spec.eps, foreach=True)


NADAM = Rule(_nadam, _start_nadam, MOMENTS, set_beta1)
RADAM = Rule(_radam, start, MOMENTS, set_beta1)
