"""RMSprop and Adagrad; see `crosstrain.optim.RmsProp` and `Adagrad`."""

import torch

from crosstrain.optim import Adagrad, RmsProp
from crosstrain_torch.optim.base import NEARLY_ZERO, Group, Kept, Rule, start_step
from crosstrain_torch.optim.sgd import set_momentum


def _rmsprop(spec: RmsProp, groups: list[Group]) -> torch.optim.Optimizer:
    momentum = 0.0 if spec.momentum == 0 else spec.momentum_at(0) or NEARLY_ZERO
    return torch.optim.RMSprop(groups, lr=0.0, alpha=spec.alpha, eps=spec.eps, momentum=momentum, foreach=True)


def _start_rmsprop(spec: RmsProp, param: torch.Tensor, kind: str) -> Kept:
    kept = {"step": start_step(), "square_avg": torch.zeros_like(param)}
    return kept | ({"momentum_buffer": torch.zeros_like(param)} if spec.momentum != 0 else {})


def _adagrad(spec: Adagrad, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, lr=0.0, eps=spec.eps, foreach=True)


def _start_adagrad(spec: Adagrad, param: torch.Tensor, kind: str) -> Kept:
    return {"step": start_step(), "sum": torch.zeros_like(param)}


RMSPROP = Rule(_rmsprop, _start_rmsprop, {"second_moment": "square_avg", "momentum": "momentum_buffer"}, set_momentum)
ADAGRAD = Rule(_adagrad, _start_adagrad, {"sum_of_squares": "sum"})
