"""Shortcuts of torch's losses and metrics: they are what the definition by values and weights gives."""

import pytest
import torch

from crosstrain_torch.ops import TorchOps

LOGITS = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 2, -100, 1]] * 4, dtype=torch.int32)


def ones() -> TorchOps:
    """By values and weights, of examples that all count once."""
    return TorchOps(torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"z_loss": 1e-3}])
def test_sums_in_one_kernel_are_those_of_values_and_weights(options: dict) -> None:
    labels = LABELS.clamp(min=0) if "ignore_index" in options else LABELS
    short, whole = (ops.cross_entropy(LOGITS, labels, **options) for ops in (TorchOps(), ones()))
    torch.testing.assert_close(short.sum, whole.sum, rtol=1e-14, atol=0)
    assert short.weight == whole.weight == (labels != options.get("ignore_index", -100)).sum()
    index = {name: value for name, value in options.items() if name == "ignore_index"}
    first, second = (ops.accuracy(LOGITS, labels, **index) for ops in (TorchOps(), ones()))
    assert first.sum == second.sum
    assert first.weight == second.weight


def test_a_label_out_of_range_gives_nan() -> None:
    labels = LABELS.clone()
    labels[1, 1] = 3
    loss = TorchOps().cross_entropy(LOGITS, labels)
    assert loss.sum.isnan()
    assert loss.weight == 16


def test_labels_that_change_in_place_are_counted_again() -> None:
    ops, labels = TorchOps(), LABELS.clone()
    assert ops.accuracy(LOGITS, labels).weight == 16
    labels[:, 0] = -100
    assert ops.cross_entropy(LOGITS, labels).weight == 12


def test_labels_made_in_inference_mode() -> None:
    with torch.inference_mode():
        labels = LABELS.clone()
        assert TorchOps().cross_entropy(LOGITS, labels).weight == 16
