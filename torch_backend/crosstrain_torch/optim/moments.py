"""Canonical slots of the moments that an optimizer keeps, and the counts beside them."""

import torch

from crosstrain.optim import OptimizerSpec
from crosstrain_torch.optim.base import Group, Kept
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
    """Makes the optimizer `step` steps old; a parameter that stood still in some of them has fewer updates."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            set_counter(spec, group, optimizer.state[param], step)


def set_counter(spec: OptimizerSpec, group: Group, kept: Kept, step: int) -> None:
    """Makes what is kept for one parameter of a group `step` steps old."""
    updates = group["settings"].updates(step)
    counters = {"step": len(updates)} | spec.carried(updates)
    for name in set(counters) & set(kept):
        kept[name].fill_(counters[name])
