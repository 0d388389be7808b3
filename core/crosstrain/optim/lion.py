"""Lion."""

from dataclasses import dataclass

from crosstrain.optim.adam import Betas
from crosstrain.optim.base import OptimizerSpec, ParamGroup, require_momentum, value_at
from crosstrain.optim.roles import require
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Lion(OptimizerSpec):
    """Lion (Chen et al. 2023, algorithm 2) with decoupled weight decay.

    u = sign(b1 m + (1 - b1) g), 0 at 0;  m = b2 m + (1 - b2) g;  p = p - lr (u + weight_decay p).
    """

    betas: Betas = (0.9, 0.99)

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require_momentum("betas[0]", self.betas[0])
        require("betas[1]", self.betas[1], 0.0, 1.0)

    def momentum_at(self, step: int) -> float:
        """See `OptimizerSpec`."""
        return value_at(self.betas[0], step)


def lion(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.99),
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Lion:
    """See `Lion`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Lion(learning_rate=as_schedule(learning_rate), betas=betas, weight_decay=weight_decay, groups=groups)
