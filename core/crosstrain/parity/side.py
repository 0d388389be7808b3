"""`Side`: one of the two runs that are compared, as a recipe that can be opened in any precision."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.data.sources import Arrays
from crosstrain.metrics import Metrics
from crosstrain.optim import OptimizerSpec
from crosstrain.probe import Probe
from crosstrain.state import Snapshot
from crosstrain.step import LossFn, StepOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Everything that decides one run, except the precision.

    Attributes:
        backend: the engine.
        model: makes the native model.
        loss_fn: see `Accelerator.train_step`.
        optimizer: the spec.
        batches: 0-based optimizer step -> global batch on the host; a pure function.
        options: accumulation and clipping.
        seed: of dropout masks.
        names: this side's canonical parameter name -> the name that both sides share; empty where they are the same.
    """

    backend: str
    model: Callable[[Accelerator], Any]
    loss_fn: LossFn
    optimizer: OptimizerSpec
    batches: Callable[[int], Arrays]
    options: StepOptions = field(default_factory=StepOptions)
    seed: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    def open(self, precision: str) -> "Live":
        """The run, ready for its first step."""
        return Live(self, precision)


class Live:
    """An open side: a state on its engine, spoken to in shared names."""

    def __init__(self, side: Side, precision: str) -> None:
        self.side = side
        self.accelerator = Accelerator(side.backend, precision=precision, seed=side.seed)
        self.state = self.accelerator.prepare(side.model(self.accelerator), side.optimizer)
        self._probe = self.accelerator.probe_step(side.loss_fn)
        self._step = self.accelerator.train_step(
            side.loss_fn,
            accumulate_steps=side.options.accumulate_steps,
            clip_norm=side.options.clip_norm,
            grad_norm=True,
        )
        self._own = {shared: own for own, shared in side.names.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shared name -> shape of every parameter."""
        return self._shared(self.state.parameter_shapes)

    @property
    def roles(self) -> dict[str, str]:
        """Shared name -> role of every parameter."""
        return self._shared(dict(self.state.parameter_roles))

    def probe(self, batch: Arrays) -> Probe:
        """Loss, activations and gradients on a batch; nothing changes."""
        found = self._probe(self.state, batch)
        return replace(found, gradients=self._shared(dict(found.gradients)))

    def step(self, batch: Arrays) -> Metrics:
        """One whole optimizer step."""
        return self._step(self.state, batch)

    def apply(self, gradients: Mapping[str, np.ndarray]) -> None:
        """The optimizer's update alone, from given gradients."""
        self.state.apply_gradients(self.state.to_gradients(self._to_own(gradients)))

    def snapshot(self) -> Snapshot:
        """The state in shared names."""
        own = self.state.snapshot()
        return replace(
            own,
            params=self._shared(dict(own.params)),
            buffers=self._shared(dict(own.buffers)),
            moments={slot: self._shared(dict(values)) for slot, values in own.moments.items()},
        )

    def load(self, snapshot: Snapshot) -> None:
        """Takes over a state of either side."""
        self.state.load(
            replace(
                snapshot,
                params=self._to_own(snapshot.params),
                buffers=self._to_own(snapshot.buffers),
                moments={slot: self._to_own(values) for slot, values in snapshot.moments.items()},
            )
        )

    def _shared(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self.side.names.get(name, name): value for name, value in values.items()}

    def _to_own(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self._own.get(name, name): value for name, value in values.items()}
