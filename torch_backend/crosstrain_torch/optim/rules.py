"""Which rule belongs to which spec."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from crosstrain.errors import ConfigError
from crosstrain.optim import (
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Lamb,
    Lion,
    Muon,
    NAdam,
    OptimizerSpec,
    RAdam,
    RmsProp,
    Role,
    Sgd,
)
from crosstrain_torch.optim import adafactor, adam, adam_variants, adaptive, lamb, lion, muon, sgd
from crosstrain_torch.optim.base import Count, Foreach, Rule
from crosstrain_torch.shards import Shards

RULES: Mapping[type[OptimizerSpec], Rule] = {
    Sgd: sgd.SGD,
    Adam: adam.ADAM,
    AdamW: adam.ADAMW,
    NAdam: adam_variants.NADAM,
    RAdam: adam_variants.RADAM,
    RmsProp: adaptive.RMSPROP,
    Adagrad: adaptive.ADAGRAD,
    Lion: lion.LION,
    Lamb: lamb.LAMB,
    Adafactor: adafactor.ADAFACTOR,
    Muon: muon.MUON,
}


def build(
    spec: OptimizerSpec, shards: Shards, roles: Mapping[str, Role], trained: Collection[str], *, moments: bool = True
) -> torch.optim.Optimizer:
    """The torch optimizer of a spec over the local parts of parameters by name; its rate is set before every step.

    Without `moments` they are left to `start`, for other tensors in the place of the parameters.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in RULES:
        known = ", ".join(kind.__name__ for kind in RULES)
        raise ConfigError(f"optimizer must be one of {known} on the torch engine, got {type(spec).__name__}.")
    rule = RULES[type(spec)]
    groups: dict[Any, list[torch.Tensor]] = {}
    elsewhere: list[tuple[torch.Tensor, str]] = []
    for name, param in shards.local.items():
        if name in trained:
            kind = rule.kind(spec, roles[name], param.ndim)
            if param.is_meta:
                elsewhere.append((param, kind))
            else:
                groups.setdefault((spec.settings(name, roles[name]), kind), []).append(param)
    optimizer = rule.build(
        spec,
        [
            {
                "params": params,
                "weight_decay": settings.weight_decay,
                "rate_scale": settings.rate_scale,
                "settings": settings,
                "counts": Count(settings),
                "kind": kind,
            }
            for (settings, kind), params in groups.items()
        ],
    )
    if isinstance(optimizer, Foreach | adafactor.AdafactorOptimizer):
        optimizer.shards = shards
    if not moments:
        return optimizer
    for group in optimizer.param_groups:
        start(spec, optimizer, group, group["params"])
    # So that the slots of all parameters are known here.
    for param, kind in elsewhere:
        optimizer.state[param].update(rule.start(spec, param.detach(), kind))
    return optimizer


def start(
    spec: OptimizerSpec, optimizer: torch.optim.Optimizer, group: Mapping[str, Any], params: Iterable[torch.Tensor]
) -> None:
    """Gives parameters of a group their moments before the first update."""
    for param in params:
        optimizer.state[param].update(RULES[type(spec)].start(spec, param.detach(), group["kind"]))


def set_hyper(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, rate: float, momentum: float, step: int) -> None:
    """Gives the update after `step` optimizer steps its numbers."""
    set_momentum = RULES[type(spec)].set_momentum
    for group in optimizer.param_groups:
        group["count"] = group["counts"].after(step) + 1
        group["lr"] = rate * group["rate_scale"]
        if set_momentum is not None:
            set_momentum(group, momentum)
