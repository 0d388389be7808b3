"""What losses and metrics share: the weights of a batch, the weighted mean, checks, and what an engine has to give."""

import abc
import math
from typing import Any

from crosstrain.errors import LossError
from crosstrain.loss import Loss


class BaseOps(abc.ABC):
    """Weighting over one batch of B examples.

    Inputs are device arrays whose first dimension is B. Values are computed in float32, or in float64 when the run is.
    """

    def __init__(self, example_weight: Any = None) -> None:
        """Binds the batch's weights.

        Args:
            example_weight: shape (B,), floating; None when every example counts once.
        """
        self.example_weight = example_weight

    def mean(self, values: Any, mask: Any = None) -> Loss:
        """The weighted mean of `values` over the real examples.

        Args:
            values: shape (B, ...), floating.
            mask: boolean or floating, same shape as `values`: what counts inside an example. None: all of it. Its sum
                is the weight, through which no gradient flows.

        Raises:
            LossError: `values` has no batch dimension, or one that is not the batch's; or `mask` has another shape.
        """
        shape = tuple(values.shape)
        if not shape:
            raise LossError("values must have one entry per example, got a scalar. Pass values of shape (B, ...).")
        values, weight = self.upcast(values), self.example_weight
        if weight is not None and shape[0] != weight.shape[0]:
            raise LossError(
                f"values must have one entry per example, got values of shape {shape} for a batch of "
                f"{weight.shape[0]} examples with weights. Keep the dimension of the batch: ops take logits of shape "
                "(B, ..., C) and labels of shape (B, ...)."
            )
        if mask is None and weight is None:
            return Loss(values.sum(), float(math.prod(shape)))
        if mask is None:
            expanded = weight.reshape(weight.shape + (1,) * (len(shape) - 1))
            return Loss((values * expanded).sum(), weight.sum() * math.prod(shape[1:]))
        self._check_same_shape("values", values, "mask", mask)
        mask = self.upcast(mask) if self.is_floating(mask) else mask
        if weight is not None:
            mask = mask * weight.reshape(weight.shape + (1,) * (len(shape) - 1))
        return Loss((values * mask).sum(), mask.sum())

    @abc.abstractmethod
    def upcast(self, values: Any) -> Any:
        """`values` in float32, or in float64 where they are float64 already."""

    @abc.abstractmethod
    def ones_like(self, values: Any) -> Any:
        """Ones in the shape and type of `values`."""

    @abc.abstractmethod
    def zeros_like(self, values: Any) -> Any:
        """Zeros in the shape and type of `values`."""

    @abc.abstractmethod
    def is_floating(self, values: Any) -> bool:
        """Whether `values` is a floating array."""

    @abc.abstractmethod
    def widen(self, values: Any) -> Any:
        """Integers or booleans in a signed type of at least 32 bits: a narrow one takes -100 for another number."""

    def _check_labels(self, logits: Any, labels: Any) -> Any:
        """The labels, widened."""
        if len(logits.shape) < 2 or logits.shape[-1] < 1:
            raise LossError(f"logits must have shape (B, ..., C) with at least one class, got {tuple(logits.shape)}.")
        if logits.shape[:-1] != labels.shape:
            raise LossError(
                "labels must have the shape of logits without its last dimension, got logits of shape "
                f"{tuple(logits.shape)} and labels of shape {tuple(labels.shape)}."
            )
        if not self.is_floating(logits):
            raise LossError(f"logits must be floating, got {logits.dtype}.")
        if self.is_floating(labels):
            raise LossError(f"labels must be integers (class indices), got {labels.dtype}.")
        return self.widen(labels)

    @staticmethod
    def _check_same_shape(first: str, a: Any, second: str, b: Any) -> None:
        if tuple(a.shape) != tuple(b.shape):
            raise LossError(
                f"{first} and {second} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}."
            )
