"""Suggestions of the learning-rate finder against fastai's loops, on curves made for the purpose."""

import math

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.training.lr_find import RangeCurve, RangeTest, smooth
from crosstrain.training.suggestions import minimum, steep, valley

RATES = ct.lr_range(1e-7, 10.0, 100).table(100)


def curve(kind: str) -> np.ndarray:
    """A loss that is flat, falls around 1e-3, and leaves around 1; some with noise, some strange."""
    x, generator = np.log10(RATES), np.random.default_rng(3)
    fall = 2.3 - 1.5 / (1.0 + np.exp(-3.0 * (x + 3.0))) + np.exp(4.0 * (x - 0.2))
    noisy = fall + 0.05 * generator.normal(size=100)
    return {
        "smooth": fall,
        "noisy": noisy,
        "very noisy": fall + generator.normal(size=100),
        "falls everywhere": np.linspace(2.0, 1.0, 100),
        "rises everywhere": np.linspace(1.0, 2.0, 100),
        "flat": np.ones(100),
        "plateaus": np.round(noisy, 1),
        "two valleys": np.cos(x * 1.7) + 0.01 * generator.normal(size=100),
    }[kind]


def reference_valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """fastai's definition, in its own order of loops."""
    count = len(losses)
    start = end = 0
    lengths = [1] * count
    for i in range(1, count):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end, start = i, i - lengths[i]
    sections = (end - start) / 3
    return float(rates[max(start + int(sections) + int(sections / 2), 0)])


def reference_steep(rates: np.ndarray, losses: np.ndarray) -> float:
    slopes = [
        (losses[i + 1] - losses[i]) / (math.log(rates[i + 1]) - math.log(rates[i])) for i in range(len(rates) - 1)
    ]
    return float(rates[slopes.index(min(slopes))])


KINDS = ["smooth", "noisy", "very noisy", "falls everywhere", "rises everywhere", "flat", "plateaus", "two valleys"]


@pytest.mark.parametrize("kind", KINDS)
def test_suggestions_are_those_of_fastai(kind: str):
    losses = curve(kind)
    assert valley(RATES, losses) == reference_valley(RATES, losses)
    if kind not in ("falls everywhere", "rises everywhere", "flat"):  # every slope is the same there
        assert steep(RATES, losses) == reference_steep(RATES, losses)
    assert minimum(RATES, losses) == RATES[losses.tolist().index(min(losses))] / 10


@pytest.mark.parametrize("count", range(2, 9))
def test_short_curves(count: int):
    for losses in (np.arange(count, 0, -1.0), np.arange(count, dtype=float)):
        assert valley(RATES[:count], losses) == reference_valley(RATES[:count], losses)


def test_a_smooth_curve_gives_rates_where_it_falls():
    losses = curve("smooth")
    assert 1e-5 < valley(RATES, losses) < 1e-2
    assert steep(RATES, losses) == pytest.approx(1e-3, rel=0.3)


def test_smoothing_has_no_bias_towards_zero():
    losses = np.full(10, 3.0)
    assert smooth(losses, 0.98) == pytest.approx(losses, rel=1e-12)
    values = np.array([1.0, 2.0, 4.0])
    expected = [1.0, (0.5 * 1.0 + 2.0) / 1.5, (0.25 * 1.0 + 0.5 * 2.0 + 4.0) / 1.75]
    assert smooth(values, 0.5) == pytest.approx(expected, rel=1e-14)


def found(losses: np.ndarray) -> RangeCurve:
    return RangeCurve(rates=RATES[: len(losses)], losses=losses, smoothed=losses, skip=10)


def test_the_first_tenth_and_the_last_five_do_not_count():
    losses = curve("smooth")
    losses[:10], losses[-5:] = 0.0, -5.0
    assert found(losses).suggestions["minimum"] > 1e-4 / 10


def test_the_curve_on_a_terminal_marks_every_suggestion():
    text = found(curve("noisy")).text(width=60, height=8)
    lines = text.splitlines()
    assert len(lines) == 11
    assert all(len(line) <= 11 + 60 for line in lines[:9])
    assert sorted(lines[8].split()) == ["m", "s", "v"]
    assert "valley 1" in lines[-1] or "valley" in lines[-1]
    assert any("\u2801" <= character <= "\u28ff" for character in text)


def test_what_a_range_test_cannot_use_is_refused():
    for options, message in (
        ({"steps": 10}, "steps must be at least 20, got steps=10"),
        ({"start": 1.0, "end": 0.1}, r"rates must grow from above 0, got start=1.0 and end=0.1"),
        ({"start": 0.0}, "rates must grow from above 0"),
        ({"stop_factor": 1.0}, "stop_factor must be above 1 or None"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
    ):
        with pytest.raises(ct.ConfigError, match=message):
            RangeTest(**options)
    with pytest.raises(ct.DataError, match="must take some steps before the loss leaves, got 16"):
        _ = found(np.ones(16)).suggestions
