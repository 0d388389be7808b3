"""Adafactor; see `crosstrain.optim.Adafactor`."""

import torch

from crosstrain.optim import Adafactor
from crosstrain_torch.optim.base import Group, Kept, Rule, start_step


def _build(spec: Adafactor, groups: list[Group]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(
        groups, lr=0.0, beta2_decay=spec.beta2_decay, eps=spec.eps, d=spec.clip_threshold, foreach=True
    )


def _start(spec: Adafactor, param: torch.Tensor, kind: str) -> Kept:
    shape = param.shape
    if len(shape) < 2:
        return {"step": start_step(), "variance": torch.zeros_like(param)}
    row, column = param.new_zeros(*shape[:-1], 1), param.new_zeros(*shape[:-2], 1, shape[-1])
    return {"step": start_step(), "row_var": row, "col_var": column}


ADAFACTOR = Rule(_build, _start, {"row_moment": "row_var", "column_moment": "col_var", "second_moment": "variance"})
