"""Muon, with AdamW for what is no matrix."""

from dataclasses import dataclass

from crosstrain.optim.adam import AdamW
from crosstrain.optim.base import OptimizerSpec, ParamGroup, require_momentum, value_at
from crosstrain.optim.roles import Role, require
from crosstrain.schedules import Schedule, as_schedule

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon(OptimizerSpec):
    """Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) with decoupled weight decay.

    A parameter of role `weight` with two and more dimensions (out, ...) in the canonical layout is a matrix (out, in),
    where in is the product of the others; one of role `experts`, (experts, out, in), is as many matrices:
    m = momentum m + g;  u = g + momentum m if nesterov else m;
    p = p - lr (sqrt(max(1, out / in)) orthogonal(u) + weight_decay p).
    orthogonal(u) is five steps X = a X + (b A + c A^2) X, A = X X^T, (a, b, c) = (3.4445, -4.775, 2.0315) (Newton and
    Schulz), from X = u / (||u|| + eps), of u transposed where out > in; in float32 or wider, where the original has
    bfloat16.

    Every other parameter: `AdamW` with betas (0.9, 0.95) and eps 1e-8 at the rate lr fallback_scale. The default scale
    is that of the original's example, 3e-4 / 0.02.
    """

    momentum: Schedule | float = 0.95
    nesterov: bool = True
    eps: float = 1e-7
    fallback_scale: float = 0.015

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require_momentum("momentum", self.momentum)
        require("eps", self.eps, 0.0)
        require("fallback_scale", self.fallback_scale, 0.0)

    def momentum_at(self, step: int) -> float:
        """See `OptimizerSpec`."""
        return value_at(self.momentum, step)

    def is_matrix(self, role: Role, dimensions: int) -> bool:
        """Whether a parameter is orthogonalised; else it follows `fallback`."""
        return role in ("weight", "experts") and dimensions >= 2

    @property
    def fallback(self) -> AdamW:
        """The numbers of the parameters that are no matrices; groups and decay are this spec's."""
        return AdamW(learning_rate=self.learning_rate, betas=(0.9, 0.95), eps=1e-8)


def muon(
    learning_rate: Schedule | float,
    *,
    momentum: Schedule | float = 0.95,
    nesterov: bool = True,
    eps: float = 1e-7,
    fallback_scale: float = 0.015,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Muon:
    """See `Muon`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Muon(
        learning_rate=as_schedule(learning_rate),
        momentum=momentum,
        nesterov=nesterov,
        eps=eps,
        fallback_scale=fallback_scale,
        weight_decay=weight_decay,
        groups=groups,
    )
