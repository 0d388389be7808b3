"""Native torch optimizers from specs, and the canonical names of their moments."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from crosstrain.errors import ConfigError
from crosstrain.optim import Adam, AdamW, OptimizerSpec, Sgd


def build(spec: OptimizerSpec, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch.optim optimizer of a spec, fused; its rate is set before every step.

    Raises:
        ConfigError: a spec this engine does not know.
    """
    if type(spec) not in _BUILDERS:
        raise ConfigError(f"optimizer must be one of {_known()} on the torch engine, got {type(spec).__name__}.")
    # A rate of 0 until the first step sets it; torch refuses none.
    return _BUILDERS[type(spec)][0](spec, list(params))


def slots(spec: OptimizerSpec) -> dict[str, str]:
    """Canonical slot -> torch's key in `optimizer.state[param]`."""
    return _BUILDERS[type(spec)][1](spec)


def _sgd(spec: Any, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        params,
        lr=0.0,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def _adam(spec: Any, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.0, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True)


def _adamw(spec: Any, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=0.0, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True)


def _adam_slots(spec: Any) -> dict[str, str]:
    return {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}


def _sgd_slots(spec: Any) -> dict[str, str]:
    return {"momentum": "momentum_buffer"} if spec.momentum else {}


_Builder = Callable[[Any, list[nn.Parameter]], torch.optim.Optimizer]
_BUILDERS: dict[type[OptimizerSpec], tuple[_Builder, Callable[[Any], dict[str, str]]]] = {
    Sgd: (_sgd, _sgd_slots),
    Adam: (_adam, _adam_slots),
    AdamW: (_adamw, _adam_slots),
}


def _known() -> str:
    return ", ".join(spec.__name__ for spec in _BUILDERS)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives the next update its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def global_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all gradients together."""
    return torch.nn.utils.get_total_norm(grads)


def clip_by_global_norm(grads: list[torch.Tensor], norm: torch.Tensor, clip_norm: float) -> None:
    """g = g min(1, clip_norm / norm), in place (Pascanu et al. 2013); without torch's 1e-6 in the denominator."""
    scale = torch.clamp(clip_norm / norm, max=1.0)
    torch._foreach_mul_(grads, scale)
