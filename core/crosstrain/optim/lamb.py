"""LAMB."""

from dataclasses import dataclass

from crosstrain.optim.adam import Adam, Betas
from crosstrain.optim.base import ParamGroup
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Lamb(Adam):
    """LAMB (You et al. 2020, algorithm 2, with phi the identity): AdamW's direction, as long as its parameter.

    m and v as `Adam` with g' = g;  r = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p;
    p = p - lr q r with q = ||p|| / ||r||, or 1 where either norm is 0. Norms are L2, of a whole parameter.
    """

    eps: float = 1e-6


def lamb(
    learning_rate: Schedule | float,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Lamb:
    """See `Lamb`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Lamb(
        learning_rate=as_schedule(learning_rate), betas=betas, eps=eps, weight_decay=weight_decay, groups=groups
    )
