"""Losses and metrics with torch's own kernels, held to the definitions in `crosstrain.ops`."""

from typing import Any

import torch
import torch.nn.functional as F

from crosstrain.loss import Loss
from crosstrain.ops import Ops


class TorchOps(Ops):
    """See `crosstrain.Ops`."""

    def __init__(self, example_weight: torch.Tensor | None = None) -> None:
        super().__init__(example_weight)
        self._counts: list[tuple[torch.Tensor, int, int, torch.Tensor]] = []

    def upcast(self, values: torch.Tensor) -> torch.Tensor:
        """See `crosstrain.Ops`."""
        return values if values.dtype == torch.float64 else values.float()

    def ones_like(self, values: torch.Tensor) -> torch.Tensor:
        """See `crosstrain.Ops`."""
        return torch.ones_like(values)

    def zeros_like(self, values: torch.Tensor) -> torch.Tensor:
        """See `crosstrain.Ops`."""
        return torch.zeros_like(values)

    def is_floating(self, values: Any) -> bool:
        """See `crosstrain.Ops`."""
        return torch.is_floating_point(values)

    def widen(self, values: torch.Tensor) -> torch.Tensor:
        """See `crosstrain.Ops`."""
        return values if values.dtype in _WIDE else values.long()

    def _mean_cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> Loss:
        # The sum by torch's kernel: of a small model, the operations over single values cost a tenth of the step.
        if self.example_weight is not None or options["z_loss"] or not _raises(labels):
            return super()._mean_cross_entropy(logits, labels, **options)
        ignored = options["ignore_index"]
        flat, wanted = self.upcast(logits), labels
        if wanted.ndim != 1:
            flat, wanted = flat.reshape(-1, flat.shape[-1]), wanted.reshape(-1)
        smoothing = options["label_smoothing"]
        try:
            if not smoothing:
                # What `F.cross_entropy` comes to, but for the count of labels, which it leaves behind.
                total, count = _nll_loss(flat.log_softmax(-1), wanted.long(), None, _SUM, ignored)
                return Loss(total, self._keep(labels, ignored, count))
            settings = {"reduction": "sum", "label_smoothing": smoothing, "ignore_index": ignored}
            total = F.cross_entropy(flat, wanted.long(), **settings)
        except IndexError:
            return super()._mean_cross_entropy(logits, labels, **options)
        return Loss(total, self._count(labels, ignored, total.dtype))

    def _count(self, labels: torch.Tensor, ignored: int, dtype: torch.dtype) -> torch.Tensor:
        """How many labels count, which a loss and the metrics beside it ask of the same ones."""
        for known, version, index, count in self._counts:
            if known is labels and version == labels._version and index == ignored:
                return count
        return self._keep(labels, ignored, (labels != ignored).sum(dtype=dtype))

    def _keep(self, labels: torch.Tensor, ignored: int, count: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling() and not labels.is_inference():  # which has no version
            self._counts.append((labels, labels._version, ignored, count))
        return count

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float, z_loss: float, ignore_index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        classes = logits.shape[-1]
        logits = self.upcast(logits)
        counted = labels != ignore_index
        options: dict[str, Any] = {
            "reduction": "none",
            "label_smoothing": label_smoothing,
            "ignore_index": ignore_index,
        }
        flat, wanted, outside = logits.reshape(-1, classes), labels.reshape(-1), None
        # Labels are looked at only after an error. torch's own ignored ones have the value 0, so they may stay.
        try:
            values = F.cross_entropy(flat, wanted.long(), **options) if _raises(labels) else None
        except IndexError:
            values = None
        if values is None:
            outside = ((labels < 0) | (labels >= classes)) & counted
            wanted = labels.masked_fill(outside, ignore_index).reshape(-1)
            values = F.cross_entropy(flat, wanted.long(), **options)
        values = values.reshape(labels.shape)
        if z_loss:
            values = values + (z_loss * logits.logsumexp(-1).square()).masked_fill(~counted, 0.0)
        if outside is not None:
            values = values.masked_fill(outside, torch.nan)
        return values, counted.to(values.dtype)

    def _mean_accuracy(self, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> Loss:
        if self.example_weight is not None or ignore_index >= 0:
            return super()._mean_accuracy(logits, labels, ignore_index)
        # No class is negative, so ignored labels are never right.
        right = (logits.argmax(dim=-1) == labels).count_nonzero()
        return Loss(right, self._count(labels, ignore_index, torch.float32))

    def _accuracy(
        self, logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        correct = self.upcast((logits.argmax(dim=-1) == labels).float())
        return correct, (labels != ignore_index).to(correct.dtype)

    def _abs(self, values: torch.Tensor) -> torch.Tensor:
        return values.abs()

    def _softplus(self, values: torch.Tensor) -> torch.Tensor:
        # F.softplus switches to the identity above its threshold of 20, which is off by 2e-9 there.
        return torch.logaddexp(values, torch.zeros((), dtype=values.dtype, device=values.device))

    def _kl_div(self, p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
        log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
        p = log_p.exp()
        return (p * (log_p - log_q).where(p > 0, 0.0)).sum(-1)

    def _rank(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        labels, classes = labels.long(), logits.shape[-1]
        in_range = (labels >= 0) & (labels < classes)
        picked = logits.gather(-1, labels.where(in_range, 0)[..., None])
        earlier = torch.arange(classes, device=logits.device) < labels[..., None]
        before = ~(logits <= picked) | ((logits == picked) & earlier)
        return before.sum(-1).where(in_range, classes)


_WIDE = (torch.int64, torch.int32)
_nll_loss = torch.ops.aten.nll_loss_forward.default
_SUM = 2
"""Of a loss's values, among torch's reductions."""


def _raises(labels: torch.Tensor) -> bool:
    """Whether torch raises for a label out of range, where the definition is NaN; it aborts a CUDA context."""
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()
