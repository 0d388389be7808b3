"""Curves on a terminal, in Unicode's braille dots: two by four of them to a character."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crosstrain.training.lr_find import RangeCurve

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BLANK = 0x2800


def range_text(curve: "RangeCurve", width: int, height: int) -> str:
    """Smoothed loss over the logarithm of the rate, with a mark under each suggestion.

    Args:
        curve: of a range test.
        width: characters of the plot, without its axis.
        height: lines of the plot.
    """
    suggestions = curve.suggestions  # which refuses a curve that is too short to draw
    x, y = np.log10(curve.rates), curve.smoothed
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    first, low = y[min(curve.skip, len(y) - 1)], y.min()
    top = first + 0.5 * (first - low) if first > low else first + 1.0
    lines = dots(x, np.minimum(y, top), width, height)
    lines = [f"{label:>9} \u2524{line}" for label, line in zip(_labels(top, low, height), lines, strict=True)]
    places = {name: round((np.log10(rate) - x[0]) / (x[-1] - x[0]) * (width - 1)) for name, rate in suggestions.items()}
    marks = [" "] * width
    for name, place in places.items():
        marks[min(max(place, 0), width - 1)] = name[0]
    axis = f"{curve.rates[0]:.0e}".ljust(width - 6) + f"{curve.rates[keep][-1]:.0e}"
    words = "   ".join(f"{name} {rate:.2e}" for name, rate in suggestions.items())
    return "\n".join([*lines, " " * 11 + "".join(marks), " " * 11 + axis, " " * 11 + words])


def dots(x: np.ndarray, y: np.ndarray, width: int, height: int) -> list[str]:
    """A curve through the points as `height` lines of `width` braille characters; the first line is the top."""
    columns = np.linspace(x[0], x[-1], 2 * width)
    values = np.interp(columns, x, y)
    low, high = values.min(), values.max()
    scale = (4 * height - 1) / (high - low) if high > low else 0.0
    rows = np.rint((high - values) * scale).astype(int)
    cells = np.full((height, width), _BLANK)
    for column, row in enumerate(rows):
        cells[row // 4, column // 2] |= _DOTS[row % 4, column % 2]
    return ["".join(map(chr, line)) for line in cells]


def _labels(top: float, low: float, height: int) -> list[str]:
    return [f"{top:.4g}", *[""] * (height - 2), f"{low:.4g}"] if height > 1 else [f"{top:.4g}"]
