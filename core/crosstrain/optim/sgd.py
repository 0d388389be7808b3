"""Stochastic gradient descent."""

from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.optim.base import OptimizerSpec, ParamGroup, require_momentum, value_at
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Sgd(OptimizerSpec):
    """Stochastic gradient descent (Sutskever et al. 2013 in torch.optim.SGD's form, dampening 0).

    g' = g + weight_decay p;  m = momentum m + g';  u = g' + momentum m if nesterov else m;  p = p - lr u.
    """

    momentum: Schedule | float = 0.0
    nesterov: bool = False

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require_momentum("momentum", self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs momentum above 0, got momentum=0.0. Set momentum, for example 0.9.")

    def momentum_at(self, step: int) -> float:
        """See `OptimizerSpec`."""
        return value_at(self.momentum, step)


def sgd(
    learning_rate: Schedule | float,
    *,
    momentum: Schedule | float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
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
        groups=groups,
    )
