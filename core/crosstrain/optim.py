"""Optimizer specs: which update, with which numbers. The engines build optax and torch.optim from them.

Each class docstring is the definition both engines are held to, for one parameter `p` with gradient `g` at rate
`lr` and (1-based) update count `t`. Moments start at zero.
"""

import math
from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.schedules import Schedule, as_schedule


def _require(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value < high:
        bound = f"in [{low}, {high})" if high < math.inf else f"at least {low}"
        raise ConfigError(f"{name} must be {bound}, got {name}={value}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """What every optimizer has.

    Attributes:
        learning_rate: the schedule of the rate, counted in optimizer steps.
        weight_decay: coefficient, >= 0; coupled or decoupled as the subclass says.
    """

    learning_rate: Schedule
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require("weight_decay", self.weight_decay, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sgd(OptimizerSpec):
    """Stochastic gradient descent (Sutskever et al. 2013 in torch.optim.SGD's form, dampening 0).

    g' = g + weight_decay p;  m = momentum m + g';  u = g' + momentum m if nesterov else m;  p = p - lr u.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _require("weight_decay", self.weight_decay, 0.0)
        _require("momentum", self.momentum, 0.0, 1.0)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs momentum above 0, got momentum=0.0. Set momentum, for example 0.9.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam(OptimizerSpec):
    """Adam (Kingma and Ba 2015, algorithm 1) with coupled weight decay.

    g' = g + weight_decay p;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2;
    p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _require("weight_decay", self.weight_decay, 0.0)
        _require("betas[0]", self.betas[0], 0.0, 1.0)
        _require("betas[1]", self.betas[1], 0.0, 1.0)
        _require("eps", self.eps, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    As `Adam` with g' = g, and p = p - lr weight_decay p beside the update.
    """


def sgd(
    learning_rate: Schedule | float,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Sgd:
    """See `Sgd`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Sgd(
        learning_rate=as_schedule(learning_rate),
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
    )


def adam(
    learning_rate: Schedule | float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Adam:
    """See `Adam`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Adam(learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay)


def adamw(
    learning_rate: Schedule | float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> AdamW:
    """See `AdamW`.

    Raises:
        ConfigError: a number out of its range.
    """
    return AdamW(learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay)
