"""Reads what a loss function returned. Called inside the engines' compiled steps, where only shapes are known."""

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from crosstrain.errors import LossError
from crosstrain.loss import Loss

BALANCE = "expert_balance"
_OWN_METRICS = ("loss", "grad_norm", "learning_rate", "examples_per_second", BALANCE)


def read_outputs(outputs: Any, *, examples: int, padded: bool) -> tuple[Loss, dict[str, Loss]]:
    """The loss and the metrics of one micro-batch, as sums and weights.

    Args:
        outputs: what `loss_fn` returned: a scalar, a `Loss`, or a pair of that and a dict of metrics.
        examples: examples in this micro-batch; the weight of a bare mean.
        padded: whether the batch carries weights, so that a bare mean would count padding.

    Raises:
        LossError: something other than these, a value that is not a scalar, or a bare mean over a padded batch.
    """
    loss: Any = outputs
    metrics: Mapping[str, Any] = {}
    if isinstance(outputs, tuple) and not isinstance(outputs, Loss):
        if len(outputs) != 2 or not isinstance(outputs[1], Mapping):
            raise LossError(
                "loss_fn must return a scalar, a Loss, or (loss, dict of metrics), "
                f"got a tuple of {', '.join(type(part).__name__ for part in outputs)}."
            )
        loss, metrics = outputs
    read = _as_loss("loss", loss, examples, padded)
    for name in metrics:
        if name in _OWN_METRICS:
            raise LossError(
                f"metrics must not be called {', '.join(_OWN_METRICS)}, which are reported anyway, "
                f"got {name}. Rename it."
            )
    return read, {name: _as_loss(name, value, examples, padded) for name, value in metrics.items()}


def _as_loss(name: str, value: Any, examples: int, padded: bool) -> Loss:
    if isinstance(value, Loss):
        _require_scalar(f"{name}.sum", value.sum)
        _require_scalar(f"{name}.weight", value.weight)
        return value
    _require_scalar(name, value)
    if padded:
        raise LossError(
            f"{name} must be a Loss(sum, weight) when batches are padded, got a bare mean, "
            "which would count the padding. Return what ops gives (ops.cross_entropy, ops.mean, ...), "
            "or make the loader with drop_last=True."
        )
    return Loss(value * float(examples), float(examples))


def _require_scalar(name: str, value: Any) -> None:
    shape = getattr(value, "shape", None)
    if shape is None:
        if isinstance(value, numbers.Real):
            return
        raise LossError(f"{name} must be a scalar array, got {type(value).__name__}. Return a mean or a Loss.")
    if shape:
        raise LossError(
            f"{name} must be a scalar, got shape {tuple(shape)}. "
            "Take its mean, or ops.mean(values) to weigh padded examples."
        )


def read_predictions(outputs: Any, batch: Mapping[str, Any], weight: str) -> dict[str, Any]:
    """What `predict_fn` returned as a dict of arrays (a bare array is `prediction`), with the batch's weights.

    Raises:
        LossError: neither an array nor a dict of arrays with one row per example.
    """
    arrays = dict(outputs) if isinstance(outputs, Mapping) else {"prediction": outputs}
    examples = next(iter(batch.values())).shape[0]
    for name, values in arrays.items():
        shape = tuple(getattr(values, "shape", ()))
        if not shape or shape[0] != examples:
            raise LossError(
                f"predict_fn must return arrays with one row per example, got {name} of shape {shape} "
                f"for {examples} examples."
            )
    return {**arrays, weight: batch[weight]} if weight in batch else arrays


def drop_padding(arrays: dict[str, np.ndarray], weight: str) -> dict[str, np.ndarray]:
    """Predictions on the host without the examples of weight 0."""
    if weight not in arrays:
        return arrays
    real = arrays[weight] != 0
    return {name: values[real] for name, values in arrays.items() if name != weight}
