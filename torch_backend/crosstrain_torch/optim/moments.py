"""Canonical slots of the moments that an optimizer keeps, and the counts beside them."""

from collections.abc import Mapping

import torch

from crosstrain.optim import OptimizerSpec
from crosstrain_torch.optim.rules import RULES

Slots = dict[str, dict[str, torch.Tensor]]


def slots(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, params: Mapping[str, torch.Tensor]) -> Slots:
    """Canonical slot -> name -> the live moment, for parameters that have it; slots that none has are left out."""
    found = {
        slot: {name: kept[key] for name, param in params.items() if key in (kept := optimizer.state.get(param, {}))}
        for slot, key in RULES[type(spec)].slots.items()
    }
    return {slot: moments for slot, moments in found.items() if moments}


def set_counters(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Makes the optimizer `step` updates old."""
    counters = {"step": step} | spec.carried(step)
    for kept in optimizer.state.values():
        for name in set(counters) & set(kept):
            kept[name].fill_(counters[name])
