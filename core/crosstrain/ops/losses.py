"""Losses: each docstring is the definition that both engines are held to."""

import abc
import math
from typing import Any

from crosstrain.errors import ConfigError, LossError
from crosstrain.loss import Loss
from crosstrain.ops.base import BaseOps


class LossOps(BaseOps):
    """Losses over one batch of B examples; each returns a `Loss`."""

    def cross_entropy(
        self,
        logits: Any,
        labels: Any,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        ignore_index: int = -100,
    ) -> Loss:
        """Softmax cross-entropy, in nats.

        With l = logsumexp(logits): (1 - s) (l - logits[label]) + s (l - mean(logits)) + z l^2, s = `label_smoothing`
        (Szegedy et al. 2016, section 7), z = `z_loss` (Chowdhery et al. 2022, section 5, with 1e-4). A label outside
        [0, C) other than `ignore_index` gives NaN.

        Args:
            logits: shape (B, ..., C), floating.
            labels: shape (B, ...), integer.
            label_smoothing: in [0, 1).
            z_loss: at least 0; keeps the normaliser near 1.
            ignore_index: labels with this value do not count.

        Raises:
            LossError: shapes or types that do not fit together.
            ConfigError: a coefficient out of its range.
        """
        labels = self._check_labels(logits, labels)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got label_smoothing={label_smoothing}.")
        if not 0 <= z_loss < math.inf:
            raise ConfigError(f"z_loss must be finite and at least 0, got z_loss={z_loss}.")
        return self._mean_cross_entropy(
            logits, labels, label_smoothing=label_smoothing, z_loss=z_loss, ignore_index=ignore_index
        )

    def mse(self, predictions: Any, targets: Any) -> Loss:
        """Mean of (prediction - target)^2 over all elements; both of shape (B, ...), floating.

        Raises:
            LossError: the shapes differ.
        """
        difference = self._difference(predictions, targets)
        return self.mean(difference * difference)

    def mae(self, predictions: Any, targets: Any) -> Loss:
        """Mean of |prediction - target| over all elements, with gradient 0 where they are equal.

        Args:
            predictions: shape (B, ...), floating.
            targets: the same shape, floating.

        Raises:
            LossError: the shapes differ.
        """
        return self.mean(self._abs(self._difference(predictions, targets)))

    def huber(self, predictions: Any, targets: Any, *, delta: float = 1.0) -> Loss:
        """Mean over all elements of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = prediction - target.

        Source: Huber 1964. torch's smooth_l1_loss(beta) is this divided by beta.

        Args:
            predictions: shape (B, ...), floating.
            targets: the same shape, floating.
            delta: where the parabola becomes a line, above 0.

        Raises:
            LossError: the shapes differ.
            ConfigError: `delta` is not above 0.
        """
        if not 0 < delta < math.inf:
            raise ConfigError(f"delta must be finite and above 0, got delta={delta}.")
        size = self._abs(self._difference(predictions, targets))
        inner = size.clip(max=delta)
        # The gradient is right at the edge too, whichever share of it `clip` passes on: delta c' + delta (1 - c').
        return self.mean(0.5 * inner * inner + delta * (size - inner))

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

    def kl_div(self, p_logits: Any, q_logits: Any, *, mask: Any = None) -> Loss:
        """Mean of KL(p || q) = sum over classes of p (log p - log q), in nats, with 0 log 0 = 0.

        p = softmax(p_logits) is what is wanted (a teacher), q = softmax(q_logits) what is fitted to it. Normalised
        log-probabilities are logits of themselves, so either form may be passed. Gradients flow into both. One value
        per distribution (Kullback and Leibler 1951): never divided by the number of classes.

        Args:
            p_logits: shape (B, ..., C), floating; -inf where p is 0.
            q_logits: the same shape.
            mask: shape (B, ...), boolean or floating: which distributions count. None: all.

        Raises:
            LossError: the shapes differ, or there is no dimension of classes.
        """
        self._check_same_shape("p_logits", p_logits, "q_logits", q_logits)
        if len(p_logits.shape) < 2:
            raise LossError(f"p_logits must have shape (B, ..., C), got {tuple(p_logits.shape)}.")
        return self.mean(self._kl_div(self.upcast(p_logits), self.upcast(q_logits)), mask)

    def _difference(self, predictions: Any, targets: Any) -> Any:
        self._check_same_shape("predictions", predictions, "targets", targets)
        return self.upcast(predictions) - self.upcast(targets)

    def _mean_cross_entropy(self, logits: Any, labels: Any, **options: Any) -> Loss:
        """The mean of `_cross_entropy`, for an engine that has it in one operation."""
        return self.mean(*self._cross_entropy(logits, labels, **options))

    @abc.abstractmethod
    def _cross_entropy(
        self, logits: Any, labels: Any, *, label_smoothing: float, z_loss: float, ignore_index: int
    ) -> tuple[Any, Any]:
        """Values in the shape of `labels`, 0 where ignored, and the floating mask of what counts."""

    @abc.abstractmethod
    def _abs(self, values: Any) -> Any:
        """|x|, with derivative 0 at 0."""

    @abc.abstractmethod
    def _softplus(self, values: Any) -> Any:
        """log(1 + exp(x)), without overflow."""

    @abc.abstractmethod
    def _kl_div(self, p_logits: Any, q_logits: Any) -> Any:
        """KL of the softmax distributions over the last dimension, in the shape of the others."""
