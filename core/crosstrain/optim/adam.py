"""Adam and AdamW."""

from dataclasses import dataclass

from crosstrain.optim.base import OptimizerSpec, ParamGroup, require_momentum, value_at
from crosstrain.optim.roles import require
from crosstrain.schedules import Schedule, as_schedule

Betas = tuple[Schedule | float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam(OptimizerSpec):
    """Adam (Kingma and Ba 2015, algorithm 1) with coupled weight decay.

    g' = g + weight_decay p;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2;
    p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    """

    betas: Betas = (0.9, 0.999)
    eps: float = 1e-8

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require_momentum("betas[0]", self.betas[0])
        require("betas[1]", self.betas[1], 0.0, 1.0)
        require("eps", self.eps, 0.0)

    def momentum_at(self, step: int) -> float:
        """See `OptimizerSpec`."""
        return value_at(self.betas[0], step)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    As `Adam` with g' = g, and p = p - lr weight_decay p beside the update.
    """


def adam(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Adam:
    """See `Adam`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Adam(
        learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay, groups=groups
    )


def adamw(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    groups: tuple[ParamGroup, ...] = (),
) -> AdamW:
    """See `AdamW`.

    Raises:
        ConfigError: a number out of its range.
    """
    return AdamW(
        learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay, groups=groups
    )
