"""What happens inside a model while it trains: activations of every layer, gradients of every parameter."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstrain.callbacks.base import Callback, Run
from crosstrain.errors import require_count


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Of all numbers of one array.

    Attributes:
        mean: their mean.
        std: their standard deviation.
        near_zero: share of them with an absolute value below 0.05, fastai's `ActivationStats`.
        norm: their L2 norm.
    """

    mean: float
    std: float
    near_zero: float
    norm: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """In float64."""
        wide = values.astype(np.float64)
        return cls(
            mean=float(wide.mean()),
            std=float(wide.std()),
            near_zero=float((np.abs(wide) < 0.05).mean()),
            norm=float(np.linalg.norm(wide)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatistics:
    """One look into a model.

    Attributes:
        step: optimizer steps that the state had taken.
        activations: canonical module path -> of its output; the model itself is "".
        gradients: canonical parameter name -> of its gradient, before clipping; frozen ones are left out or 0.
    """

    step: int
    activations: dict[str, Moments]
    gradients: dict[str, Moments]

    @property
    def grad_norm(self) -> float:
        """L2 norm over all gradients together."""
        return float(np.sqrt(sum(each.norm**2 for each in self.gradients.values())))


class Statistics(Callback):
    """Looks into the model every so many steps: a pass of its own over the batch, whose step changes nothing.

    It waits for the device and copies all activations to the host, so look seldom. For the global gradient norm alone
    use `Trainer(grad_norm=True)`, which costs next to nothing.

    Args:
        every: optimizer steps between looks.

    Attributes:
        looks: what was seen, in order.

    Raises:
        ConfigError: less than one step.
    """

    def __init__(self, every: int = 100) -> None:
        require_count("every", every)
        self._every = every
        self.looks: list[LayerStatistics] = []

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._probe = run.trainer.accelerator.probe_step(run.trainer.loss_fn)

    def on_step_begin(self, run: Run, batch: dict[str, Any]) -> None:
        """See `Callback`."""
        if all(step % self._every for step in run.taken):
            return
        probe = self._probe(run.state, batch)
        self.looks.append(
            LayerStatistics(
                step=run.state.step,
                activations={name: Moments.of(values) for name, values in probe.activations.items()},
                gradients={name: Moments.of(values) for name, values in probe.gradients.items()},
            )
        )
