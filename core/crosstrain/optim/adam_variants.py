"""NAdam and RAdam: Adam with Nesterov momentum, and Adam whose rate is rectified while its second moment is young."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crosstrain.optim.adam import Adam, Betas
from crosstrain.optim.base import ParamGroup, value_at
from crosstrain.optim.roles import require
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class NAdam(Adam):
    """NAdam (Dozat 2016 in torch.optim.NAdam's form) with coupled weight decay.

    g', m and v as `Adam`;  mu(i) = b1 (1 - 0.96^(i momentum_decay) / 2);  M = mu(1) ... mu(t), each with its own b1;
    d = (1 - mu(t)) g' / (1 - M) + mu(t+1) m / (1 - M mu(t+1));  p = p - lr d / (sqrt(v / (1 - b2^t)) + eps).
    """

    momentum_decay: float = 4e-3

    def check(self) -> None:
        """See `OptimizerSpec`."""
        Adam.check(self)
        require("momentum_decay", self.momentum_decay, 0.0)

    def carried(self, steps: Sequence[int]) -> dict[str, float]:
        """See `OptimizerSpec`: M after these updates."""
        product = 1.0
        for update, step in enumerate(steps, 1):
            product *= value_at(self.betas[0], step) * self.warming(update)
            if product == 0.0:
                break
        return {"mu_product": product}

    def warming(self, update: int) -> float:
        """mu / b1 of a 1-based update."""
        return float(1.0 - 0.5 * 0.96 ** (update * self.momentum_decay))


@dataclass(frozen=True, kw_only=True, slots=True)
class RAdam(Adam):
    """RAdam (Liu et al. 2020, algorithm 2, in torch.optim.RAdam's form) with coupled weight decay.

    g', m and v as `Adam`;  m^ = m / (1 - b1^t);  rho = 2 / (1 - b2) - 1;  rho_t = rho - 2 t b2^t / (1 - b2^t);
    where rho_t > 5: p = p - lr m^ r_t sqrt(1 - b2^t) / (sqrt(v) + eps) with
    r_t = sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t));  else p = p - lr m^.
    """

    def rectification(self, update: int) -> float:
        """r_t of a 1-based update; 0 where rho_t is at most 5 and the second moment is left out."""
        beta2 = self.betas[1]
        full = 2.0 / (1.0 - beta2) - 1.0
        length = full - 2.0 * update * beta2**update / (1.0 - beta2**update)
        if length <= 5.0:
            return 0.0
        return math.sqrt((length - 4.0) * (length - 2.0) * full / ((full - 4.0) * (full - 2.0) * length))


def nadam(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> NAdam:
    """See `NAdam`.

    Raises:
        ConfigError: a number out of its range.
    """
    return NAdam(
        learning_rate=as_schedule(learning_rate),
        betas=betas,
        eps=eps,
        momentum_decay=momentum_decay,
        weight_decay=weight_decay,
        groups=groups,
    )


def radam(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> RAdam:
    """See `RAdam`.

    Raises:
        ConfigError: a number out of its range.
    """
    return RAdam(
        learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay, groups=groups
    )
