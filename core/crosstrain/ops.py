"""`ops`: losses and metrics with one definition. Weighting is said here; the engines give the values.

The step hands `loss_fn` an `Ops` that knows the weight of every example in this batch, so padded examples
(weight 0) drop out of every loss and metric without a word in the user's code.
"""

import abc
import math
from typing import Any

from crosstrain.errors import LossError
from crosstrain.loss import Loss


class Ops(abc.ABC):
    """Losses and metrics over one batch of B examples. Each returns a `Loss`.

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
            mask: boolean or floating, same shape as `values`: what counts inside an example. None: all of it.

        Raises:
            LossError: `values` has no batch dimension.
        """
        shape = tuple(values.shape)
        if not shape:
            raise LossError("values must have one entry per example, got a scalar. Pass values of shape (B, ...).")
        weight = self.example_weight
        if mask is None and weight is None:
            return Loss(values.sum(), float(math.prod(shape)))
        if mask is None:
            expanded = weight.reshape(weight.shape + (1,) * (len(shape) - 1))
            return Loss((values * expanded).sum(), weight.sum() * math.prod(shape[1:]))
        if weight is not None:
            mask = mask * weight.reshape(weight.shape + (1,) * (len(shape) - 1))
        return Loss((values * mask).sum(), mask.sum())

    def cross_entropy(
        self, logits: Any, labels: Any, *, label_smoothing: float = 0.0, ignore_index: int = -100
    ) -> Loss:
        """Softmax cross-entropy, in nats.

        With l = logsumexp(logits): (1 - s) (l - logits[label]) + s (l - mean(logits)), s = `label_smoothing`
        (Szegedy et al. 2016, section 7). A label outside [0, C) other than `ignore_index` gives NaN.

        Args:
            logits: shape (B, ..., C), floating.
            labels: shape (B, ...), integer.
            label_smoothing: in [0, 1).
            ignore_index: labels with this value do not count.

        Raises:
            LossError: shapes or types that do not fit together.
        """
        self._check_labels(logits, labels)
        return self.mean(
            *self._cross_entropy(logits, labels, label_smoothing=label_smoothing, ignore_index=ignore_index)
        )

    def accuracy(self, logits: Any, labels: Any, *, ignore_index: int = -100) -> Loss:
        """Share of examples (or tokens) whose largest logit is the label; ties go to the lowest index.

        Args:
            logits: shape (B, ..., C), floating.
            labels: shape (B, ...), integer.
            ignore_index: labels with this value do not count.

        Raises:
            LossError: shapes or types that do not fit together.
        """
        self._check_labels(logits, labels)
        return self.mean(*self._accuracy(logits, labels, ignore_index=ignore_index))

    def mse(self, predictions: Any, targets: Any) -> Loss:
        """Mean of (prediction - target)^2 over all elements; both of shape (B, ...), floating.

        Raises:
            LossError: the shapes differ.
        """
        self._check_same_shape("predictions", predictions, "targets", targets)
        difference = self.upcast(predictions) - self.upcast(targets)
        return self.mean(difference * difference)

    def bce_with_logits(self, logits: Any, targets: Any) -> Loss:
        """Mean of softplus(x) - x y over all elements, the binary cross-entropy of sigmoid(x), in nats.

        Args:
            logits: x, shape (B, ...), floating.
            targets: y in [0, 1], the same shape.

        Raises:
            LossError: the shapes differ.
        """
        self._check_same_shape("logits", logits, "targets", targets)
        logits = self.upcast(logits)
        return self.mean(self._softplus(logits) - logits * self.upcast(targets))

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
    def _cross_entropy(self, logits: Any, labels: Any, *, label_smoothing: float, ignore_index: int) -> tuple[Any, Any]:
        """Values in the shape of `labels`, 0 where ignored, and the floating mask of what counts."""

    @abc.abstractmethod
    def _accuracy(self, logits: Any, labels: Any, *, ignore_index: int) -> tuple[Any, Any]:
        """Zeros and ones in the shape of `labels`, and the floating mask of what counts."""

    @abc.abstractmethod
    def _softplus(self, values: Any) -> Any:
        """log(1 + exp(x)), without overflow."""

    def _check_labels(self, logits: Any, labels: Any) -> None:
        if tuple(logits.shape[:-1]) != tuple(labels.shape):
            raise LossError(
                "labels must have the shape of logits without its last dimension, got logits of shape "
                f"{tuple(logits.shape)} and labels of shape {tuple(labels.shape)}."
            )
        if not self.is_floating(logits):
            raise LossError(f"logits must be floating, got {logits.dtype}.")
        if self.is_floating(labels):
            raise LossError(f"labels must be integers (class indices), got {labels.dtype}.")

    @staticmethod
    def _check_same_shape(first: str, a: Any, second: str, b: Any) -> None:
        if tuple(a.shape) != tuple(b.shape):
            raise LossError(
                f"{first} and {second} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}."
            )
