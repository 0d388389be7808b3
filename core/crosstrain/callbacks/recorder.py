"""Curves of a run: rate and momentum of every step, metrics as they were logged."""

from pathlib import Path

import numpy as np

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.errors import ConfigError
from crosstrain.metrics import Metrics
from crosstrain.optim import Hyper, OptimizerSpec
from crosstrain.state import TrainState


class Recorder(Callback):
    """Writes down rate and momentum of every step, which the host knows, and what was logged and evaluated.

    The device is never waited for: metrics come with `on_log`.

    Attributes:
        records: logged steps.
        evaluations: evaluations.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.evaluations: list[Record] = []
        self._noted: list[tuple[OptimizerSpec, range]] = []
        self._steps: list[int] = []
        self._hyper: list[Hyper] = []

    @property
    def steps(self) -> list[int]:
        """Optimizer steps that the state had taken after each of them."""
        self._evaluate()
        return self._steps

    @property
    def rates(self) -> list[float]:
        """Learning rate of every step."""
        self._evaluate()
        return [each.rate for each in self._hyper]

    @property
    def momenta(self) -> list[float]:
        """Momentum, or first beta, of every step; 0 where the optimizer has none."""
        self._evaluate()
        return [each.momentum for each in self._hyper]

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        """See `Callback`."""
        self.note(run.state, run.taken)

    def note(self, state: TrainState, steps: range) -> None:
        """Writes down the rates of optimizer steps, each by the number of steps before it, for a loop of one's own."""
        self._noted.append((state.optimizer, steps))

    def _evaluate(self) -> None:
        """The schedules of noted steps, when somebody asks: in the loop they would cost as much as all else here."""
        noted, self._noted = self._noted, []
        for optimizer, steps in noted:
            self._steps += [step + 1 for step in steps]
            self._hyper += [optimizer.hyper(step) for step in steps]

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        self.records.append(record)

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        self.evaluations.append(record)

    def curve(self, metric: str, *, evaluation: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Steps (int64) and values (float64) of a metric, both of shape (n,).

        Raises:
            ConfigError: no such metric.
        """
        records = self.evaluations if evaluation else self.records
        if any(metric not in record.values for record in records):
            raise ConfigError(f"metric must be one of {', '.join(records[0].values)}, got metric={metric!r}.")
        return np.array([each.step for each in records]), np.array([each.values[metric] for each in records])

    def plot(self, path: Path | str) -> None:
        """Writes rate, momentum and losses over the steps as an image.

        Raises:
            CrosstrainError: matplotlib is not installed.
        """
        from crosstrain.training.figures import draw_record, save

        save(draw_record(self), path)
