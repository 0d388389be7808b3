"""The best model of a run, and averaged weights put to use."""

import dataclasses
import logging
from typing import Any

from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.callbacks.monitor import Mode, Monitor, Watching
from crosstrain.data.phases import Batches
from crosstrain.errors import CheckpointError
from crosstrain.metrics import MetricSum
from crosstrain.snapshot import Snapshot

logger = logging.getLogger("crosstrain")


class BestModel(Watching):
    """Keeps the state at its best evaluation on the host, and puts it back at the end of `fit`; needs an `eval_loader`.

    All of the state goes back, its moments and its step included, so that training on from there is training on from
    there. After an exception nothing is put back. A resumed run reads the best so far from its checkpoints, which
    `CheckpointSpec(keep_best=...)` by the same metric keeps there; where it is gone, the log says so, and the best from
    there on counts.

    Args:
        metric: name in the evaluation.
        mode: whether small or large is good.
        min_delta: how much better counts as better.

    Raises:
        ConfigError: a number out of range, and in `fit` a metric that the evaluation does not report.
    """

    def __init__(self, metric: str = "loss", *, mode: Mode = "min", min_delta: float = 0.0) -> None:
        super().__init__(Monitor(metric=metric, mode=mode, min_delta=min_delta))
        self._snapshot: Snapshot | None = None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        super().load_state_dict(state)
        if self._run is not None:
            self._snapshot = self._best_so_far(self._run)

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        super().on_fit_begin(run)
        self._snapshot = None

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        if self.monitor.is_better(record):
            self._snapshot = run.state.snapshot()

    def on_exception(self, run: Run, error: BaseException) -> None:
        """See `Callback`."""
        self._snapshot = None

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        if self._snapshot is not None and self._snapshot.step != run.state.step:
            run.state.load(self._snapshot)
        self._snapshot = None
        super().on_fit_end(run)

    def _best_so_far(self, run: Run) -> Snapshot | None:
        """The state at the best evaluation before a resume. The run's own is back afterwards."""
        step = self.monitor.best_step
        if step is None or run.checkpoints is None:
            return None
        now = run.state.snapshot()
        if step == now.step:
            return now
        from crosstrain.checkpoint import Checkpoints

        try:
            Checkpoints(run.trainer.accelerator, run.checkpoints.root).restore(run.state, step=step)
            return run.state.snapshot()
        except CheckpointError as error:
            self.monitor.reset()
            if run.is_main_process:
                logger.warning(
                    "the best evaluation so far was at optimizer step %d, whose state is gone: %s "
                    "keep_best=ct.Best(%r, %r) in CheckpointSpec keeps it.",
                    *(step, error, self.monitor.metric, self.monitor.mode),
                )
            return None
        finally:
            run.state.load(now)


class Averaged(Callback):
    """Evaluates the averaged weights (`ct.ema`, `ct.swa`) beside the current ones, and may leave them in the model.

    Running statistics (BatchNorm) are those of the current weights.

    Args:
        loader: what to evaluate on, after every epoch; None does not.
        use: at the end of `fit` the averaged weights take the place of the current ones. An average that has not begun,
            such as one of `ct.swa` before its start, is none: the current ones stay.

    Attributes:
        evaluations: averages over all examples, in order.

    Raises:
        ConfigError: in `fit`, a state that keeps no average.
    """

    def __init__(self, loader: Batches | None = None, *, use: bool = False) -> None:
        self._loader, self._use = loader, use
        self._failed = False
        self.evaluations: list[Record] = []

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        run.state.require_average(True)
        self._failed = False
        self._evaluate = run.trainer.accelerator.eval_step(run.trainer.loss_fn, averaged=True)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        if self._loader is None:
            return
        total = MetricSum()
        with self._loader.aside():
            for batch in self._loader:
                total.add(self._evaluate(run.state, batch))
        accelerator = run.trainer.accelerator
        values = total.result(accelerator.reduce if accelerator.islands else None)
        self.evaluations.append(Record(step=run.state.step, epoch=run.epoch, values=values))

    def on_exception(self, run: Run, error: BaseException) -> None:
        """See `Callback`."""
        self._failed = True

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        average = run.state.average
        begun = average is not None and any(average.weight(step) for step in range(run.state.step))
        if self._use and begun and not self._failed:
            snapshot = run.state.snapshot()
            run.state.load(dataclasses.replace(snapshot, params=snapshot.averages))
