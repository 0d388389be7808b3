"""The training loop: epochs, steps, logging one step late, evaluation. Which events come when is decided here only."""

import itertools
from collections.abc import Callable

from crosstrain.callbacks import Callback, Record, Run, Speed, emit
from crosstrain.data.phases import Batches
from crosstrain.metrics import Metrics
from crosstrain.step import TrainStep
from crosstrain.training.history import History


class Loop:
    """One call of `Trainer.fit`.

    Args:
        run: where it stands; a resumed one begins later.
        callbacks: called in this order.
        step: the compiled step.
        history: written to.
        log_every: optimizer steps between reads of the metrics.
        evaluate: evaluates once; None for no evaluation.
    """

    def __init__(
        self,
        run: Run,
        callbacks: tuple[Callback, ...],
        step: TrainStep,
        history: History,
        *,
        log_every: int,
        evaluate: Callable[[], dict[str, float]] | None,
    ) -> None:
        self._run, self._callbacks, self._step, self._history = run, callbacks, step, history
        self._log_every, self._evaluate = log_every, evaluate
        self._pending: tuple[int, int, Metrics] | None = None
        self._speed = Speed(run.state.step, run.batch_size)

    def __call__(self, loader: Batches) -> None:
        """Trains until the run is over or something stops it."""
        run = self._run
        try:
            self._emit("on_fit_begin")
            epochs = itertools.count(run.epoch) if run.epochs is None else range(run.epoch, run.epochs)
            for epoch in epochs:
                run.epoch = epoch
                self._epoch(loader)
                if run.stops_at_once:
                    break
                if self._evaluate is not None:
                    self._evaluate_once()
                self._emit("on_epoch_end")
                if run.stop_reason or run.step == run.total_steps:
                    break
            self._step.finish()
        except BaseException as error:
            self._emit("on_exception", error)
            raise
        finally:
            self._history.stop_reason = run.stop_reason
            self._emit("on_fit_end")

    def _epoch(self, loader: Batches) -> None:
        run = self._run
        self._emit("on_epoch_begin")
        if run.total_steps is not None and run.step >= run.total_steps:
            return
        batches = iter(loader)
        run.batch_size = self._speed.batch_size = loader.batch_size  # which a PhasedLoader changes
        for batch in batches:
            self._emit("on_step_begin", batch)
            metrics = self._step(run.state, batch)
            run.step += 1
            # The values of the step before are read now, while the device is busy with this one.
            self._flush()
            if run.step % self._log_every == 0 or run.step == run.total_steps:
                self._pending = (run.state.step, run.epoch, metrics)
            self._emit("on_step_end", metrics)
            if run.stop_reason or run.step == run.total_steps:
                break
        self._flush()

    def _flush(self) -> None:
        if self._pending is None:
            return
        step, epoch, metrics = self._pending
        self._pending = None
        values = dict(metrics)  # waits for that step, so the clock is read when it is done
        record = Record(step=step, epoch=epoch, values=values | {"examples_per_second": self._speed.lap(step)})
        self._history.train.append(record)
        self._emit("on_log", record)

    def _evaluate_once(self) -> None:
        assert self._evaluate is not None
        self._emit("on_evaluate_begin")
        with self._speed.paused():
            values = self._evaluate()
        record = Record(step=self._run.state.step, epoch=self._run.epoch, values=values)
        self._history.evaluations.append(record)
        self._emit("on_evaluate_end", record)

    def _emit(self, event: str, *arguments: object) -> None:
        emit(self._callbacks, event, self._run, *arguments)
