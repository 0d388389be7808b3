"""The training loop: epochs, steps, logging one step late, evaluation. Which events come when is decided here only."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from crosstrain.callbacks import Callback, Record, Run, Speed, listeners
from crosstrain.data.phases import Batches
from crosstrain.metrics import Metrics
from crosstrain.step import TrainStep
from crosstrain.training.history import History

Batch = dict[str, Any]


class Loop:
    """One call of `Trainer.fit`.

    Args:
        run: where it stands; a resumed one begins later.
        callbacks: called in this order.
        step: the compiled step.
        history: written to.
        log_every: optimizer steps between reads of the metrics.
        steps_per_call: optimizer steps in one call of the compiled step.
        evaluate: evaluates once; None for no evaluation.
        ended: whether the run was resumed where an epoch had come to its end, with its evaluation.
    """

    def __init__(
        self,
        run: Run,
        callbacks: tuple[Callback, ...],
        step: TrainStep,
        history: History,
        *,
        log_every: int,
        steps_per_call: int,
        evaluate: Callable[[], dict[str, float]] | None,
        ended: bool = False,
    ) -> None:
        self._run, self._callbacks, self._step, self._history = run, callbacks, step, history
        self._log_every, self._evaluate = log_every, evaluate
        self._steps_per_call = steps_per_call
        self._ended = ended
        self._pending: list[tuple[int, Metrics]] = []
        self._listeners: dict[str, list[Callable[..., None]]] = {}
        self._speed = Speed(run.state.step, run.batch_size)

    def __call__(self, loader: Batches) -> None:
        """Trains until the run is over or something stops it."""
        failed: BaseException | None = None
        try:
            self._train(loader)
        except BaseException as error:
            failed = self._emit_to_all("on_exception", error, failed=error)
        self._history.stop_reason = self._run.stop_reason
        failed = self._emit_to_all("on_fit_end", failed=failed)
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # it holds this frame, and with it the arrays on the devices

    def _train(self, loader: Batches) -> None:
        run = self._run
        self._emit("on_fit_begin")
        # A run that is started again after its end: all of it has happened.
        if self._ended and (run.stop_reason or self._is_over()):
            return
        epochs = itertools.count(run.epoch) if run.epochs is None else range(run.epoch, run.epochs)
        for epoch in epochs:
            run.epoch = epoch
            if not self._epoch(loader):
                continue
            if run.stops_at_once:
                break
            if self._evaluate is not None:
                self._evaluate_once()
            self._emit("on_epoch_end")
            if run.stop_reason or run.step == run.total_steps:
                break
        self._step.finish()

    def _is_over(self) -> bool:
        return self._run.total_steps is not None and self._run.step >= self._run.total_steps

    def _epoch(self, loader: Batches) -> bool:
        """Trains to the end of an epoch. False where the run was resumed after its last batch, and it had ended."""
        run, ended = self._run, self._ended
        self._ended = False
        calls = _unless_empty(self._calls(loader)) if ended else None
        if ended and calls is None:
            return False
        self._emit("on_epoch_begin")
        if self._is_over():
            return True
        if calls is None:
            calls = self._calls(loader)
        run.batch_size = self._speed.batch_size = loader.batch_size  # which a PhasedLoader changes
        last: tuple[int, Metrics] | None = None
        for batches in calls:
            last = self._call(batches)
            if run.stop_reason or run.step == run.total_steps:
                break
        # Where it is known only now that this was the last step of the run.
        ends = run.epoch + 1 == run.epochs or (run.stop_reason and not run.stops_at_once)
        if ends and last is not None and (not self._pending or self._pending[-1][0] < last[0]):
            self._pending.append(last)
        self._flush()
        return True

    def _call(self, batches: Sequence[Batch]) -> tuple[int, Metrics]:
        """One call of the step, with its events. Returns the last step and its metrics."""
        run = self._run
        run.taken = range(run.state.step, run.state.step + len(batches))
        if self._listeners_of("on_step_begin"):
            self._emit("on_step_begin", batches[0])
        before = run.step
        metrics = self._take(batches)
        # The values of the call before are read now, while the device is busy with this one.
        if self._pending:
            self._flush()
        for step, count, each in zip(run.taken, range(before + 1, run.step + 1), metrics, strict=True):
            if count % self._log_every == 0 or count == run.total_steps:
                self._pending.append((step + 1, each))
        self._emit("on_step_end", metrics[-1])
        return run.taken[-1] + 1, metrics[-1]

    def _calls(self, loader: Batches) -> Iterator[Sequence[Batch]]:
        """The batches of each call of the step, to the end of the epoch or of the run."""
        run = self._run
        if self._steps_per_call == 1:
            batches = iter(loader)  # begins the epoch
            return ([batch] for batch in batches)
        return loader.stacks(self._steps_per_call, None if run.total_steps is None else run.total_steps - run.step)

    def _take(self, batches: Sequence[Batch]) -> list[Metrics]:
        """Steps in one call, or one by one where they are fewer, for which nothing new is compiled."""
        state, before = self._run.state, self._run.state.step
        try:
            if len(batches) == self._steps_per_call > 1:
                return self._step.many(state, batches)
            return [self._step(state, batch) for batch in batches]
        finally:
            # Before anything else can raise: what is saved at an exception counts the steps that the state has taken.
            self._run.step += state.step - before

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        # Reading waits for those steps, so the clock is read when they are done.
        found = [(step, dict(metrics)) for step, metrics in pending]
        speed = self._speed.lap(found[-1][0], self._run.state.step) if found else 0.0
        for step, values in found:
            record = Record(step=step, epoch=self._run.epoch, values=values | {"examples_per_second": speed})
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
        for listener in self._listeners_of(event):
            listener(self._run, *arguments)

    def _emit_to_all(self, event: str, *arguments: object, failed: BaseException | None) -> BaseException | None:
        """An event that every listener hears, whatever the others raise: they let go of locks, files and handlers.

        Returns:
            The first error, which is `failed` where there is one; those that came later are its notes.
        """
        for listener in self._listeners_of(event):
            try:
                listener(self._run, *arguments)
            except BaseException as error:
                if failed is None:
                    failed = error
                elif error is not failed:
                    name = getattr(listener, "__qualname__", event)
                    failed.add_note(f"Afterwards {name} raised {type(error).__name__}: {error}")
        return failed

    def _listeners_of(self, event: str) -> list[Callable[..., None]]:
        if event not in self._listeners:
            self._listeners[event] = listeners(self._callbacks, event)
        return self._listeners[event]


def _unless_empty(calls: Iterator[Sequence[Batch]]) -> Iterator[Sequence[Batch]] | None:
    first = next(calls, None)
    return None if first is None else itertools.chain([first], calls)
