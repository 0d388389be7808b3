"""Native torch optimizers from specs, and the canonical names of their moments."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from crosstrain.errors import ConfigError
from crosstrain.optim import Adam, AdamW, OptimizerSpec, Sgd
from crosstrain_torch import naming

Groups = list[dict[str, Any]]

# At a momentum of exactly 0 torch leaves its buffer as it was, where the definition has m = g'. A schedule that passes
# through 0 gets this instead: too small to change any sum.
_NEARLY_ZERO = torch.finfo(torch.float32).tiny


class _Rule(NamedTuple):
    """How one kind of spec becomes a torch optimizer.

    Attributes:
        build: spec and parameter groups (with `weight_decay` set) -> optimizer.
        slots: canonical slot -> torch's key in `optimizer.state[param]`.
        set_momentum: puts this step's momentum into a group; None where there is none.
    """

    build: Callable[[Any, Groups], torch.optim.Optimizer]
    slots: Callable[[Any], dict[str, str]]
    set_momentum: Callable[[dict[str, Any], float], None] | None


def build(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The torch optimizer of a spec over a model's trained parameters; its rate is set before every step.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in _RULES:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise ConfigError(f"optimizer must be one of {known} on the torch engine, got {type(spec).__name__}.")
    groups: dict[Any, list[nn.Parameter]] = {}
    roles = naming.roles(model)
    for name, param in naming.parameters(model).items():
        if param.requires_grad:
            groups.setdefault(spec.settings(name, roles[name]), []).append(param)
    return _RULES[type(spec)].build(
        spec,
        [
            {"params": params, "weight_decay": settings.weight_decay, "rate_scale": settings.rate_scale}
            for settings, params in groups.items()
        ],
    )


def slots(spec: OptimizerSpec) -> dict[str, str]:
    """Canonical slot -> torch's key in `optimizer.state[param]`."""
    return _RULES[type(spec)].slots(spec)


def set_hyper(spec: OptimizerSpec, optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> None:
    """Gives the next update its numbers."""
    set_momentum = _RULES[type(spec)].set_momentum
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]
        if set_momentum is not None:
            set_momentum(group, momentum)


# Every rate starts at 0: the step sets it.


def _sgd(spec: Sgd, groups: Groups) -> torch.optim.Optimizer:
    momentum = 0.0 if spec.momentum == 0 else spec.momentum_at(0) or _NEARLY_ZERO
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=spec.nesterov, fused=True)


def _adam(spec: Adam, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.0, betas=_betas(spec), eps=spec.eps, fused=True)


def _adamw(spec: AdamW, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=_betas(spec), eps=spec.eps, fused=True)


def _betas(spec: Adam) -> tuple[float, float]:
    return spec.momentum_at(0), spec.betas[1]


def _adam_slots(spec: Any) -> dict[str, str]:
    return {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def _sgd_slots(spec: Sgd) -> dict[str, str]:
    return {"momentum": "momentum_buffer"} if spec.momentum != 0 else {}


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    group["momentum"] = momentum or (_NEARLY_ZERO if group["momentum"] else 0.0)


def _set_beta1(group: dict[str, Any], momentum: float) -> None:
    group["betas"] = (momentum, *group["betas"][1:])


_RULES: Mapping[type[OptimizerSpec], _Rule] = {
    Sgd: _Rule(_sgd, _sgd_slots, _set_momentum),
    Adam: _Rule(_adam, _adam_slots, _set_beta1),
    AdamW: _Rule(_adamw, _adam_slots, _set_beta1),
}


def global_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all gradients together."""
    return torch.nn.utils.get_total_norm(grads)


def clip_by_global_norm(grads: list[torch.Tensor], norm: torch.Tensor, clip_norm: float) -> None:
    """g = g min(1, clip_norm / norm), in place (Pascanu et al. 2013); without torch's 1e-6 in the denominator."""
    torch._foreach_mul_(grads, torch.clamp(clip_norm / norm, max=1.0))


def update_average(averages: list[torch.Tensor], params: list[torch.Tensor], weight: float) -> None:
    """a = a + weight (p - a), in place."""
    torch._foreach_lerp_(averages, params, weight)
