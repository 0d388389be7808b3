"""Bugs in a loss function."""

from collections.abc import Callable
from typing import Any

from crosstrain.loss import Loss

from .bases import loss_fn


def smoothed(model: Any, batch: Any, ops: Any) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.1)


def counts_ignored(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return Loss(value.sum, float(batch["label"].numel()))


def mean_of_means(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return value.sum / value.weight


def summed(model: Any, batch: Any, ops: Any) -> Any:
    value = loss_fn(model, batch, ops)
    return Loss(value.sum * len(batch["label"]), value.weight)


def gradient_times(factor: float) -> Callable[..., Any]:
    def run(model: Any, batch: Any, ops: Any) -> Any:
        value = loss_fn(model, batch, ops)
        return Loss(value.sum * factor - (value.sum * (factor - 1)).detach(), value.weight)

    return run
