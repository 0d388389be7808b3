"""RMSprop and Adagrad: rates per element from the history of squared gradients, without a first moment."""

from dataclasses import dataclass

from crosstrain.optim.base import OptimizerSpec, ParamGroup, require_momentum, value_at
from crosstrain.optim.roles import require
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class RmsProp(OptimizerSpec):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5, in torch.optim.RMSprop's form) with coupled weight decay.

    g' = g + weight_decay p;  v = alpha v + (1 - alpha) g'^2;  u = g' / (sqrt(v) + eps);
    b = momentum b + u, where the spec has momentum, else b = u;  p = p - lr b.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: Schedule | float = 0.0

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require("alpha", self.alpha, 0.0, 1.0)
        require("eps", self.eps, 0.0)
        require_momentum("momentum", self.momentum)

    def momentum_at(self, step: int) -> float:
        """See `OptimizerSpec`."""
        return value_at(self.momentum, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adagrad(OptimizerSpec):
    """Adagrad (Duchi et al. 2011, diagonal, in torch.optim.Adagrad's form) with coupled weight decay.

    g' = g + weight_decay p;  s = s + g'^2;  p = p - lr g' / (sqrt(s) + eps).
    """

    eps: float = 1e-10

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require("eps", self.eps, 0.0)


def rmsprop(
    learning_rate: Schedule | float,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: Schedule | float = 0.0,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> RmsProp:
    """See `RmsProp`.

    Raises:
        ConfigError: a number out of its range.
    """
    return RmsProp(
        learning_rate=as_schedule(learning_rate),
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        groups=groups,
    )


def adagrad(
    learning_rate: Schedule | float,
    *,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Adagrad:
    """See `Adagrad`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Adagrad(learning_rate=as_schedule(learning_rate), eps=eps, weight_decay=weight_decay, groups=groups)
