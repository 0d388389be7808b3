"""Canonical slots of the moments that an optimizer keeps, and the counts beside them."""

import torch

from crosstrain.optim import OptimizerSpec
from crosstrain_torch.optim.rules import RULES
from crosstrain_torch.shards import Shards, wrap

Slots = dict[str, dict[str, torch.Tensor]]


def slots(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, shards: Shards) -> Slots:
    """Canonical slot -> name -> the live moment, for parameters that have it; slots that none has are left out."""
    rule = RULES[type(spec)]
    found = {
        slot: {
            name: wrap(kept[key], shards.native[name], rule.means.get(key))
            for name, param in shards.local.items()
            if key in (kept := optimizer.state.get(param, {}))
        }
        for slot, key in rule.slots.items()
    }
    return {slot: moments for slot, moments in found.items() if moments}


def set_counters(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Makes the optimizer `step` updates old."""
    counters = {"step": step} | spec.carried(step)
    for kept in optimizer.state.values():
        for name in set(counters) & set(kept):
            kept[name].fill_(counters[name])
