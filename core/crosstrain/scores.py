"""Scores that are functions of averages, so that they are taken once, of the averages over all examples."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

from crosstrain.errors import ConfigError

Average = Literal["macro", "micro"]


def perplexity(loss: float) -> float:
    """exp(loss) of a mean cross-entropy in nats (Jelinek et al. 1977), such as `metrics["loss"]`.

    The mean must be over all tokens: of one step, or of a `MetricSum` or `Trainer.evaluate` over many batches. The mean
    of the batches' perplexities is something else. Label smoothing and z-loss would be counted in.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def f1(values: Mapping[str, float], *, name: str = "f1", average: Average = "macro") -> float:
    """F1 = 2 tp / (2 tp + fp + fn) (van Rijsbergen 1979) from the averages of `ops.f1_counts`.

    Args:
        values: `Metrics`, what `MetricSum.result` or `Trainer.evaluate` gives, or any mapping with these names.
        name: as in `ops.f1_counts`.
        average: over classes: `macro` is the mean of the F1 of every class that occurs or was predicted, `micro` the
            F1 of the summed counts. The same where there is one class.

    Returns:
        In [0, 1]; NaN where nothing occurs and nothing was predicted.

    Raises:
        ConfigError: counts that are not there, or an unknown average.
    """
    if average not in get_args(Average):
        raise ConfigError(f"average must be 'macro' or 'micro', got average={average!r}.")
    counts = [count for count in _counts(values, name) if sum(count) > 0]
    if not counts:
        return math.nan
    if average == "micro":
        counts = [tuple(map(sum, zip(*counts, strict=True)))]
    return sum(2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts) / len(counts)


def _counts(values: Mapping[str, float], name: str) -> list[tuple[float, ...]]:
    """(tp, fp, fn) of every class."""
    classes = [key.removeprefix(f"{name}_tp") for key in values if key.startswith(f"{name}_tp")]
    keys = [tuple(f"{name}_{part}{suffix}" for part in ("tp", "fp", "fn")) for suffix in classes]
    if not keys or any(key not in values for triple in keys for key in triple):
        raise ConfigError(
            f"values must hold {name}_tp, {name}_fp and {name}_fn, got {', '.join(values) or 'nothing'}. "
            "Return **ops.f1_counts(...) among the metrics of loss_fn."
        )
    return [tuple(values[key] for key in triple) for triple in keys]
