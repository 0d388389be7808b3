"""Outer steps of islands: `DiLoCo` and local SGD in `Trainer.fit`."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from crosstrain.callbacks.base import Callback, Run
from crosstrain.errors import ConfigError
from crosstrain.metrics import Metrics
from crosstrain.optim.outer import DiLoCo
from crosstrain.snapshot import check_names

_START, _VELOCITY = "start/", "velocity/"


class OuterSteps(Callback):
    """Brings islands (`Accelerator(islands=True)`) together whenever each has taken `spec.every` steps.

    Weights follow the spec, running statistics are averaged, moments stay each island's own. The islands begin with the
    weights of the first process. Give it before callbacks that read the weights.

    Args:
        spec: the outer steps.
        at_end: take a last one at the end of `fit` if there were steps since, so that all islands end with the same
            weights; not after an exception.

    Attributes:
        taken: outer steps so far.

    Raises:
        ConfigError: in `fit`, processes that are no islands, or `steps_per_call` that does not divide `every`.
    """

    def __init__(self, spec: DiLoCo, *, at_end: bool = True) -> None:
        self.spec, self.taken = spec, 0
        self._at_end = at_end
        self._start: dict[str, np.ndarray] = {}
        self._velocity: dict[str, np.ndarray] = {}
        self._behind = False

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where the last outer step ended and its velocity, by name; the same on every island.

        Arrays, for a file of your own: `fit` writes no checkpoints of islands.
        """
        sections = ((_START, self._start), (_VELOCITY, self._velocity))
        return {f"{prefix}{name}": values for prefix, arrays in sections for name, values in arrays.items()}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from a `state_dict`, with states that were loaded from each island's own snapshot."""
        self._start, self._velocity = (
            {name.removeprefix(prefix): np.array(arrays[name]) for name in arrays if name.startswith(prefix)}
            for prefix in (_START, _VELOCITY)
        )

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        if not run.trainer.accelerator.islands:
            raise ConfigError(
                "OuterSteps must be used with islands, got an accelerator whose processes train together. "
                "Use Accelerator(islands=True)."
            )
        self._behind = False
        if self._start:
            shapes = run.state.parameter_shapes
            check_names("outer steps", shapes, self._start)
            check_names("outer steps", shapes, self._velocity)
            return
        view = run.state.view()
        self._start = run.trainer.accelerator.broadcast(dict(view.params))
        self._velocity = {name: np.zeros_like(values) for name, values in self._start.items()}
        self._put(run, view.buffers)

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """See `Callback`."""
        self._behind = True
        if not run.passes(self.spec.every):
            return
        if (run.taken[-1] + 1) % self.spec.every:
            raise ConfigError(
                f"steps_per_call must divide every={self.spec.every}, and calls must begin at its multiples, got one "
                f"that went on to step {run.taken[-1] + 1}."
            )
        self._take(run)

    def on_exception(self, run: Run, error: BaseException) -> None:
        """See `Callback`."""
        self._behind = False

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        if self._at_end and self._behind:
            self._take(run)

    def _take(self, run: Run) -> None:
        accelerator, view = run.trainer.accelerator, run.state.view()
        mean = accelerator.reduce(dict(view.params), "mean")
        for name, start in self._start.items():
            self._start[name], self._velocity[name] = self.spec.update(start, mean[name], self._velocity[name])
        buffers = dict(view.buffers)
        averaged = {name: values for name, values in buffers.items() if values.dtype.kind == "f"}
        self._put(run, buffers | (accelerator.reduce(averaged, "mean") if averaged else {}))
        self.taken += 1
        self._behind = False

    def _put(self, run: Run, buffers: Mapping[str, np.ndarray]) -> None:
        """Replaces weights and statistics, and nothing else."""
        view = run.state.view()
        run.state.load(
            dataclasses.replace(view, params=self._start, buffers=buffers, moments={}, averages={}, native={})
        )
