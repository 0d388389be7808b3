"""Metrics: each docstring is the definition that both engines are held to. `crosstrain.scores` derives others."""

import abc
from typing import Any

from crosstrain.errors import ConfigError, LossError
from crosstrain.loss import Loss
from crosstrain.ops.base import BaseOps


class MetricOps(BaseOps):
    """Metrics over one batch of B examples: sums and weights, which add up exactly over batches and devices."""

    def accuracy(self, logits: Any, labels: Any, *, ignore_index: int = -100) -> Loss:
        """Share of examples (or tokens) whose largest logit is the label; ties go to the lowest index.

        Args:
            logits: shape (B, ..., C), floating.
            labels: shape (B, ...), integer.
            ignore_index: labels with this value do not count.

        Raises:
            LossError: shapes or types that do not fit together.
        """
        labels = self._check_labels(logits, labels)
        return self._mean_accuracy(logits, labels, ignore_index)

    def top_k_accuracy(self, logits: Any, labels: Any, *, k: int, ignore_index: int = -100) -> Loss:
        """Share of examples (or tokens) whose label is among the k largest logits.

        Fewer than k classes come before the label: those with a larger logit, and those with an equal one and a lower
        index, so that exactly k classes are accepted whatever the ties, and k = 1 is `accuracy`. A label whose logit is
        NaN is never right, and another NaN comes before it.

        Args:
            logits: shape (B, ..., C), floating.
            labels: shape (B, ...), integer.
            k: from 1 to C.
            ignore_index: labels with this value do not count.

        Raises:
            LossError: shapes or types that do not fit together.
            ConfigError: `k` out of its range.
        """
        labels = self._check_labels(logits, labels)
        if not 1 <= k <= logits.shape[-1]:
            raise ConfigError(f"k must be from 1 to the number of classes, got k={k} of {logits.shape[-1]} classes.")
        return self.mean(self.upcast(self._rank(logits, labels) < k), self.upcast(labels != ignore_index))

    def f1_counts(
        self, predicted: Any, actual: Any, *, classes: int | None = None, ignore_index: int = -100, name: str = "f1"
    ) -> dict[str, Loss]:
        """True positives, false positives and false negatives, as shares of what counts; `ct.f1` makes a score of them.

        Put them among the metrics of a loss function: `{**ops.f1_counts(logits > 0, batch["label"])}`. All have the
        same weight, so the score of their averages over any number of batches and devices is that of all examples.

        Args:
            predicted: shape (B, ...), boolean, 0 and 1, or class indices.
            actual: the same shape and meaning.
            classes: None for one class, 1; else one set of counts for each of 0 .. classes - 1.
            ignore_index: elements of `actual` with this value do not count.
            name: what the names of the counts begin with.

        Returns:
            `{name}_tp`, `{name}_fp`, `{name}_fn`; with `classes`, `{name}_tp_{c}` and so on.

        Raises:
            LossError: the shapes differ, or probabilities were passed.
            ConfigError: less than two classes.
        """
        self._check_same_shape("predicted", predicted, "actual", actual)
        for field, values in (("predicted", predicted), ("actual", actual)):
            if self.is_floating(values):
                raise LossError(
                    f"{field} must be booleans or class indices, got {values.dtype}. "
                    "Decide first: logits > 0, or logits.argmax(-1)."
                )
        if classes is not None and classes < 2:
            raise ConfigError(f"classes must be at least 2 or None, got classes={classes}.")
        predicted, actual = self.widen(predicted), self.widen(actual)
        counted = self.upcast(actual != ignore_index)
        counts: dict[str, Loss] = {}
        for index in (1,) if classes is None else range(classes):
            p, a = self.upcast(predicted == index), self.upcast(actual == index)
            suffix = "" if classes is None else f"_{index}"
            counts[f"{name}_tp{suffix}"] = self.mean(p * a, counted)
            counts[f"{name}_fp{suffix}"] = self.mean(p * (1.0 - a), counted)
            counts[f"{name}_fn{suffix}"] = self.mean((1.0 - p) * a, counted)
        return counts

    def _mean_accuracy(self, logits: Any, labels: Any, ignore_index: int) -> Loss:
        """The mean of `_accuracy`, for an engine that has it in fewer operations."""
        return self.mean(*self._accuracy(logits, labels, ignore_index=ignore_index))

    @abc.abstractmethod
    def _accuracy(self, logits: Any, labels: Any, *, ignore_index: int) -> tuple[Any, Any]:
        """Zeros and ones in the shape of `labels`, and the floating mask of what counts."""

    @abc.abstractmethod
    def _rank(self, logits: Any, labels: Any) -> Any:
        """How many classes come before the label, in the shape of `labels`; C for labels out of range."""
