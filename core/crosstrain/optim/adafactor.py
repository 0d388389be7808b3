"""Adafactor."""

from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.optim.base import OptimizerSpec, ParamGroup
from crosstrain.optim.roles import require
from crosstrain.schedules import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Adafactor(OptimizerSpec):
    """Adafactor (Shazeer and Stern 2018 in torch.optim.Adafactor's form) with decoupled weight decay.

    With (eps1, eps2) = eps, RMS(x) = ||x|| / sqrt(size of x), and b = 1 - t^beta2_decay:
    parameters of two and more dimensions (..., n, m) in the canonical layout keep the means over rows and columns,
    R = b R + (1 - b) mean_m(g^2), shape (..., n, 1);  C = b C + (1 - b) mean_n(g^2), shape (..., 1, m);
    v = R C / max(mean_n(R), eps1);  others keep v = b v + (1 - b) g^2;
    u = g / sqrt(max(v, eps1^2));  w = u / max(1, RMS(u) / clip_threshold);
    p = p - lr weight_decay p - max(eps2, RMS(p)) min(lr, 1 / sqrt(t)) w, with RMS(p) before the update.

    The paper adds eps1 to g^2 instead, and takes 0.01 for lr.
    """

    eps: tuple[float, float] = (1e-16, 1e-3)
    clip_threshold: float = 1.0
    beta2_decay: float = -0.8

    def check(self) -> None:
        """See `OptimizerSpec`."""
        require("eps[0]", self.eps[0], 0.0)
        require("eps[1]", self.eps[1], 0.0)
        require("clip_threshold", self.clip_threshold, 1.0)
        if not self.beta2_decay <= 0:
            raise ConfigError(f"beta2_decay must be at most 0, got beta2_decay={self.beta2_decay}.")


def adafactor(
    learning_rate: Schedule | float,
    *,
    eps: tuple[float, float] = (1e-16, 1e-3),
    clip_threshold: float = 1.0,
    beta2_decay: float = -0.8,
    weight_decay: float = 0.0,
    groups: tuple[ParamGroup, ...] = (),
) -> Adafactor:
    """See `Adafactor`.

    Raises:
        ConfigError: a number out of its range.
    """
    return Adafactor(
        learning_rate=as_schedule(learning_rate),
        eps=eps,
        clip_threshold=clip_threshold,
        beta2_decay=beta2_decay,
        weight_decay=weight_decay,
        groups=groups,
    )
