"""`Recipe`: a training run in neutral words, and `record`: the run itself on one engine, every step written down."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.callbacks import Callback, Run
from crosstrain.metrics import Metrics
from crosstrain.models import build
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import OptimizerSpec
from crosstrain.step import LossFn
from crosstrain.trainer import Trainer

_WARM_UP_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides a run, except the engine, the precision and the seed.

    Attributes:
        name: for reports.
        config: of a paired model.
        train: a source of training examples.
        test: a source of test examples.
        loss_fn: returns the loss and a metric called `accuracy`.
        optimizer: total number of optimizer steps -> spec.
        batch_size: examples per global batch.
        epochs: passes over the training examples.
        clip_norm: see `StepOptions`.
    """

    name: str
    config: ModelConfig
    train: Any
    test: Any
    loss_fn: LossFn
    optimizer: Callable[[int], OptimizerSpec]
    batch_size: int
    epochs: int
    clip_norm: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What one run did.

    Attributes:
        backend: the engine.
        precision: the preset.
        seed: of weights and data order.
        loss: training loss of every step, float64, shape (steps,).
        grad_norm: gradient norm of every step before clipping, float64, shape (steps,).
        evaluation: metrics over all test examples after the last step; empty when it was not evaluated.
        examples_per_s: training throughput after the first steps, compilation left out; NaN for very short runs.
    """

    backend: str
    precision: str
    seed: int
    loss: np.ndarray
    grad_norm: np.ndarray
    evaluation: dict[str, float]
    examples_per_s: float


class _Recorder(Callback):
    """Keeps every step's metrics on the device, and takes the time between two synchronised points."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._metrics: list[Metrics] = []
        self._started = self._ended = 0.0

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        self._metrics.append(metrics)
        if run.step == _WARM_UP_STEPS:
            self._started = self._now()
        if run.step == run.total_steps:
            self._ended = self._now()

    def values(self, name: str) -> np.ndarray:
        return np.array([metrics[name] for metrics in self._metrics])

    def examples_per_s(self, batch_size: int) -> float:
        timed = len(self._metrics) - _WARM_UP_STEPS
        return timed * batch_size / (self._ended - self._started) if timed > 0 else float("nan")

    def _now(self) -> float:
        self._accelerator.synchronize()
        return time.perf_counter()


def record(
    recipe: Recipe,
    backend: str,
    *,
    precision: str = "fp32",
    seed: int = 0,
    steps: int | None = None,
    progress: bool = False,
) -> Trace:
    """Runs a recipe on one engine.

    Args:
        recipe: what to train.
        backend: the engine.
        precision: a preset.
        seed: of weights, data order and dropout.
        steps: stop after this many steps, without evaluation; None runs all epochs and evaluates.
        progress: show the progress bar.

    Returns:
        The trace; its schedule is that of the whole recipe also when `steps` cuts it short.
    """
    accelerator = Accelerator(backend, precision=precision, seed=seed, nan_policy="raise")
    loader = accelerator.loader(recipe.train, batch_size=recipe.batch_size, shuffle=True)
    total = len(loader) * recipe.epochs
    model = build(recipe.config.kind, recipe.config, accelerator)
    recorder = _Recorder(accelerator)
    trainer = Trainer(
        accelerator,
        accelerator.prepare(model, recipe.optimizer(total)),
        recipe.loss_fn,
        clip_norm=recipe.clip_norm,
        grad_norm=True,
        callbacks=[recorder],
        progress=progress,
    )
    trainer.fit(loader, steps=min(steps or total, total))
    evaluation = {}
    if steps is None:
        evaluation = trainer.evaluate(accelerator.loader(recipe.test, batch_size=recipe.batch_size))
    return Trace(
        backend=backend,
        precision=precision,
        seed=seed,
        loss=recorder.values("loss"),
        grad_norm=recorder.values("grad_norm"),
        evaluation=evaluation,
        examples_per_s=recorder.examples_per_s(recipe.batch_size),
    )
