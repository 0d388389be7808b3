"""`Side`: one of the two runs that are compared, as a recipe that can be opened in any precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.data.sources import Arrays
from crosstrain.metrics import Metrics
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.parity.names import Names, Part
from crosstrain.probe import SAME, ModuleSettings, Probe, same_padding
from crosstrain.snapshot import Snapshot
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
        average: of the weights, or None.
        names: this side's own parameter name -> its place in the shared names; empty where they are the same.
        constants: own names of buffers that no step changes and that the other side need not have; each side keeps its
            own values, and no snapshot shows them.
    """

    backend: str
    model: Callable[[Accelerator], Any]
    loss_fn: LossFn
    optimizer: OptimizerSpec
    batches: Callable[[int], Arrays]
    options: StepOptions = field(default_factory=StepOptions)
    seed: int = 0
    average: Averaging | None = None
    names: Mapping[str, Part] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()

    def open(self, precision: str) -> "Live":
        """The run, ready for its first step."""
        return Live(self, precision)


class Live:
    """An open side: a state on its engine, spoken to in shared names."""

    def __init__(self, side: Side, precision: str) -> None:
        self.side = side
        self.accelerator = Accelerator(side.backend, precision=precision, seed=side.seed)
        self.state = self.accelerator.prepare(side.model(self.accelerator), side.optimizer, average=side.average)
        self._probe = self.accelerator.probe_step(side.loss_fn)
        self._step = self.accelerator.train_step(
            side.loss_fn,
            accumulate_steps=side.options.accumulate_steps,
            clip_norm=side.options.clip_norm,
            clip_value=side.options.clip_value,
            grad_norm=True,
        )
        self.names = Names(side.names)
        buffers = self.state.view().buffers
        self._constants = {name: np.array(buffers[name]) for name in sorted(side.constants)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shared name -> shape of every parameter."""
        return self.names.shapes(self.state.parameter_shapes)

    @property
    def roles(self) -> dict[str, str]:
        """Shared name -> role of every parameter."""
        return self.names.first(dict(self.state.parameter_roles))

    def probe(self, batch: Arrays) -> Probe:
        """Loss, activations and gradients on a batch; nothing changes."""
        found = self._probe(self.state, batch)
        return replace(
            found,
            activations=self.names.by_module(found.activations),
            gradients=self.names.to_shared(found.gradients),
            inputs=self.names.by_module(found.inputs),
            order=tuple(event._replace(module=self.names.module(event.module)) for event in found.order),
        )

    def module_settings(self) -> dict[str, ModuleSettings]:
        """Shared module path -> settings of layers that crosstrain knows, padding in numbers for the first batch."""
        found = self.names.by_module(self.accelerator.module_settings(self.state.model))
        if not any(each.values.get("padding") == SAME for each in found.values()):
            return found
        inputs = self.probe(self.side.batches(0)).inputs
        return {path: _padded(each, inputs.get(path, ())) for path, each in found.items()}

    def step(self, batch: Arrays) -> Metrics:
        """One whole optimizer step."""
        return self._step(self.state, batch)

    def apply(self, gradients: Mapping[str, np.ndarray]) -> None:
        """The optimizer's update alone, from given gradients."""
        self.state.apply_gradients(self.state.to_gradients(self.names.to_own(gradients)))

    def snapshot(self) -> Snapshot:
        """The state in shared names."""
        own = self.state.snapshot()
        buffers = {name: values for name, values in own.buffers.items() if name not in self._constants}
        return _translate(replace(own, buffers=buffers), self.names.to_shared)

    def load(self, snapshot: Snapshot) -> None:
        """Takes over a state of either side."""
        own = _translate(snapshot, self.names.to_own)
        self.state.load(replace(own, buffers={**own.buffers, **self._constants}))


def _padded(settings: ModuleSettings, inputs: Sequence[np.ndarray]) -> ModuleSettings:
    """Settings with the numbers that `SAME` is for these inputs. flax alone has it with strides: channels come last."""
    values = dict(settings.values)
    if values.get("padding") == SAME and inputs:
        kernel, stride, dilation = (cast("tuple[int, ...]", values[each]) for each in ("kernel", "stride", "dilation"))
        sizes = inputs[0].shape[-1 - len(kernel) : -1]
        values["padding"] = same_padding(kernel, stride, dilation, sizes)
    return replace(settings, values=values)


def _translate(snapshot: Snapshot, names: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> Snapshot:
    return replace(
        snapshot,
        params=names(snapshot.params),
        buffers=names(snapshot.buffers),
        moments={slot: names(values) for slot, values in snapshot.moments.items()},
        averages=names(snapshot.averages) if snapshot.averages else {},
        native={},  # so that a model with random numbers of its own draws others each time, and is found out
    )
