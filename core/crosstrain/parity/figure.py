"""The figure of a comparison: curves of both engines, and their differences on a log axis."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstrain.errors import CrosstrainError
from crosstrain.parity.compare import FLOAT64_LIMIT, Comparison, relative_difference
from crosstrain.parity.verdict import Verdict

_COLOURS = ("#e8710a", "#1a73e8")
_ROUNDING = 1e-17


def draw(comparisons: Sequence[Comparison]) -> Any:
    """A matplotlib figure with one row per recipe: loss, gradient norm, relative difference of the losses.

    Raises:
        CrosstrainError: matplotlib is not installed.
    """
    figure = _figure(15, 4.2 * len(comparisons))
    rows = figure.subplots(len(comparisons), 3, squeeze=False)
    for axes, comparison in zip(rows, comparisons, strict=True):
        _curves(axes[0], comparison, "loss")
        _curves(axes[1], comparison, "grad_norm")
        _differences(axes[2], comparison)
    return figure


def draw_losses(verdict: Verdict) -> Any:
    """A matplotlib figure of a verdict's free run: losses of both sides, and their relative difference.

    Raises:
        CrosstrainError: matplotlib is not installed.
    """
    figure = _figure(12, 4)
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(verdict.loss[0]) + 1)
    styles = zip(verdict.backends, verdict.loss, _COLOURS, ("-", "--"), (3.0, 1.5), strict=True)
    for backend, values, colour, style, width in styles:
        left.plot(steps, values, style, color=colour, linewidth=width, label=backend)
    left.set(title="loss (float64)", xlabel="optimizer step")
    right.semilogy(steps, np.maximum(relative_difference(*verdict.loss), _ROUNDING), color="#188038")
    right.axhline(FLOAT64_LIMIT, color="#d93025", linestyle=":", label="limit")
    right.set(title="relative difference of the losses", xlabel="optimizer step", ylim=(_ROUNDING / 3, 10))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise CrosstrainError("the report needs matplotlib. Run: pip install 'crosstrain[examples]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _curves(axis: Any, comparison: Comparison, quantity: str) -> None:
    for run, colour, style, width in zip(
        (runs[0] for runs in comparison.runs), _COLOURS, ("-", "--"), (3.0, 1.5), strict=True
    ):
        values = getattr(run, quantity)
        axis.plot(np.arange(1, len(values) + 1), values, style, color=colour, linewidth=width, label=run.backend)
    axis.set(title=f"{comparison.name}: {quantity.replace('_', ' ')} (float32)", xlabel="optimizer step")
    axis.grid(alpha=0.3)
    axis.legend()


def _differences(axis: Any, comparison: Comparison) -> None:
    shown = (("float64", comparison.checks), ("float32", tuple(runs[0] for runs in comparison.runs)))
    for (name, (a, b)), colour in zip(shown, ("#188038", "#9334e6"), strict=True):
        difference = np.maximum(relative_difference(a.loss, b.loss), _ROUNDING)
        axis.semilogy(np.arange(1, len(difference) + 1), difference, color=colour, label=name)
    axis.axhline(FLOAT64_LIMIT, color="#d93025", linestyle=":", label="float64 limit")
    axis.set(
        title=f"{comparison.name}: relative difference of the losses",
        xlabel="optimizer step",
        ylim=(_ROUNDING / 3, 10),
    )
    axis.grid(alpha=0.3)
    axis.legend()


def to_svg(figure: Any) -> str:
    """The figure as an SVG element, for a page that needs no other file.

    Inside HTML it needs no namespaces, and so the page holds no address at all.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
