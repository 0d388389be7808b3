"""`Tracker`: where a run's numbers go. `Tracking` feeds them; `hyperparameters` is what they are told of the run."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol

from crosstrain.accelerator import Accelerator
from crosstrain.callbacks.base import Callback, Record, Run
from crosstrain.errors import ConfigError, CrosstrainError
from crosstrain.state import TrainState

Value = str | int | float | bool | None


class Tracker(Protocol):
    """What a run is written to. Called on the main process only, in this order, once for each `fit`."""

    def start(self, config: Mapping[str, Value], step: int) -> None:
        """Before the first batch.

        Args:
            config: see `hyperparameters`.
            step: optimizer steps that the state has taken. What was logged of later ones, by a run that ended before
                it could save them, is logged again.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values that were read at optimizer step `step`: `epoch`, and `train/...` or `eval/...`."""

    def finish(self, error: BaseException | None) -> None:
        """At the end, also after an exception, which is `error` then."""


class Tracking(Callback):
    """Gives logged steps and evaluations to trackers. `Trainer(trackers=...)` makes it.

    Values come from `on_log`, so that no tracker makes the device wait.

    Raises:
        ConfigError: something that is no tracker.
    """

    def __init__(self, trackers: tuple[Tracker, ...]) -> None:
        for each in trackers:
            if isinstance(each, type) or not all(hasattr(each, name) for name in ("start", "log", "finish")):
                raise ConfigError(
                    f"trackers must have start, log and finish, got {each!r}. Use for example "
                    "ct.trackers.JsonLines('run.jsonl')."
                )
        self._trackers = trackers
        self._started: list[Tracker] = []
        self._error: BaseException | None = None

    def on_fit_begin(self, run: Run) -> None:
        """See `Callback`."""
        self._error = None
        if not run.is_main_process:
            return
        config = hyperparameters(run)
        for tracker in self._trackers:
            tracker.start(config, run.state.step)
            self._started.append(tracker)

    def on_log(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        self._log("train", record)

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        """See `Callback`."""
        self._log("eval", record)

    def on_exception(self, run: Run, error: BaseException) -> None:
        """See `Callback`."""
        self._error = error

    def on_fit_end(self, run: Run) -> None:
        """See `Callback`."""
        while self._started:
            self._started.pop(0).finish(self._error)

    def _log(self, kind: str, record: Record) -> None:
        values = {f"{kind}/{name}": value for name, value in record.values.items()}
        for tracker in self._started:
            tracker.log(record.step, {"epoch": record.epoch, **values})


def hyperparameters(run: Run) -> dict[str, Value]:
    """What decides a run, as flat names: that of `settings`, and steps and batch of this call of `fit`."""
    call = {
        "step": run.trainer.options,
        "batch_size": run.batch_size,
        "epochs": run.epochs,
        "total_steps": run.total_steps,
    }
    return settings(run.trainer.accelerator, run.state) | dict(flatten(call))


def settings(accelerator: Accelerator, state: TrainState) -> dict[str, Value]:
    """Engine, precision, mesh, seed, model and optimizer, as flat names."""
    config = getattr(state.model, "config", None)
    is_plain = isinstance(config, Mapping) or (dataclasses.is_dataclass(config) and not isinstance(config, type))
    found = {
        "backend": accelerator.backend,
        "environment": accelerator.describe(),
        "precision": accelerator.precision,
        "mesh": accelerator.mesh_sizes,
        "seed": accelerator.seed,
        "model": (config if is_plain else None) or type(state.model).__name__,
        "parameter_count": state.parameter_count,
        "optimizer": state.optimizer if state.is_trainable else None,
        "average": state.average,
    }
    return dict(flatten(found))


def flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Dotted names and plain values of specs, dicts and tuples, all the way down; a spec's class is its `.type`."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        yield f"{prefix}.type", type(values).__name__
        values = {each.name: getattr(values, each.name) for each in dataclasses.fields(values)}
    if isinstance(values, Mapping):
        for name, each in values.items():
            yield from flatten(each, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple) and any(dataclasses.is_dataclass(each) for each in values):
        yield from flatten(dict(enumerate(values)), prefix)
    else:
        yield prefix, values if isinstance(values, str | int | float | bool | None) else str(values)


def load(module: str, what: str, extra: str) -> ModuleType:
    """The library of a tracker.

    Raises:
        CrosstrainError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CrosstrainError(
            f"{what} needs {module.partition('.')[0]}, which is not installed. Run: pip install 'crosstrain[{extra}]'."
        ) from error
