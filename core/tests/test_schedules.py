"""Schedules against formulas written anew in NumPy, their end points, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.schedules import as_schedule

STEPS = 200
PROPERTY = settings(deadline=None, derandomize=True)
RATES = st.floats(1e-6, 10.0)
TOTALS = st.integers(2, 150)


def decayed(table, warmup, total, peak, final, shape):
    """Ramps from 0 to `peak`, then goes from `peak` to `final` along `shape` of [0, 1]."""
    steps = np.arange(table)
    progress = np.clip((steps - warmup) / (total - warmup), 0, 1)
    rates = peak * shape(progress) + final * (1 - shape(progress))
    return np.where(steps < warmup, peak * steps / max(warmup, 1), rates)


SHAPES = {"linear": (ct.linear, lambda p: 1 - p), "cosine": (ct.cosine, lambda p: np.cos(np.pi * p / 2) ** 2)}


@pytest.mark.parametrize("name", SHAPES)
@PROPERTY
@given(peak=RATES, final=st.floats(0, 1), total=TOTALS, share=st.floats(0, 0.9))
def test_warmed_schedules_equal_their_formula(name, peak, final, total, share):
    make, shape = SHAPES[name]
    warmup = int(total * share)
    schedule = make(peak, total, warmup_steps=warmup, final=final)
    expected = decayed(STEPS, warmup, total, peak, final, shape)
    np.testing.assert_allclose(schedule.table(STEPS), expected, rtol=1e-14, atol=1e-15 * max(peak, final))


@PROPERTY
@given(peak=RATES, total=TOTALS, pct=st.floats(0.05, 0.95), div=st.floats(1, 50), final_div=st.floats(1, 1e6))
def test_one_cycle_equals_its_formula(peak, total, pct, div, final_div):
    schedule = ct.one_cycle(peak, total, pct_start=pct, div=div, final_div=final_div)
    p = np.minimum(np.arange(STEPS) / total, 1)
    up = peak / div + (peak - peak / div) * np.sin(np.pi * p / pct / 2) ** 2
    down = peak / final_div + (peak - peak / final_div) * np.cos(np.pi * (p - pct) / (1 - pct) / 2) ** 2
    np.testing.assert_allclose(schedule.table(STEPS), np.where(p < pct, up, down), rtol=1e-14, atol=1e-15 * peak)


def test_constant_never_changes():
    assert ct.constant(0.3).table(5).tolist() == [0.3] * 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ct.linear(1.0, 100, warmup_steps=10, final=0.1), {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.55, 100: 0.1}),
        (ct.cosine(1.0, 100, warmup_steps=10, final=0.1), {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.55, 100: 0.1}),
        (ct.linear(1.0, 10), {0: 1.0, 9: 0.1, 10: 0.0}),
        (ct.one_cycle(1.0, 100), {0: 1 / 25, 25: 1.0, 100: 1e-5}),
        (ct.one_cycle(1.0, 10, pct_start=0.5, div=2, final_div=4), {0: 0.5, 5: 1.0, 10: 0.25}),
    ],
    ids=["linear", "cosine", "no-warm-up", "one-cycle", "one-cycle-options"],
)
def test_end_points_and_turning_points(schedule, expected):
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("make", [ct.linear, ct.cosine, ct.one_cycle])
def test_past_the_last_step_the_final_rate_holds(make):
    schedule = make(1.0, 10)
    assert schedule(10) == schedule(11) == schedule(10**6)


@pytest.mark.parametrize("make", [ct.linear, ct.cosine, ct.one_cycle])
def test_one_step_is_a_whole_schedule(make):
    assert all(math.isfinite(rate) for rate in make(1.0, 1).table(3))


def test_equal_numbers_make_equal_schedules():
    assert ct.cosine(0.1, 10) == ct.cosine(0.1, 10) != ct.cosine(0.1, 11)
    assert ct.cosine(0.1, 10) != ct.linear(0.1, 10)


def test_table_is_float64():
    assert ct.one_cycle(0.1, 10).table(10).dtype == np.float64


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ct.constant(-0.1), "learning rate=-0.1"),
        (lambda: ct.constant(math.nan), "learning rate=nan"),
        (lambda: ct.linear(math.inf, 10), "learning rate=inf"),
        (lambda: ct.linear(0.1, 0), "total_steps=0"),
        (lambda: ct.cosine(0.1, 0), "total_steps=0"),
        (lambda: ct.one_cycle(0.1, 0), "total_steps=0"),
        (lambda: ct.cosine(0.1, -3), "total_steps=-3"),
        (lambda: ct.one_cycle(-0.1, 10), "learning rate=-0.1"),
        (lambda: ct.linear(0.1, 10, final=-1.0), "final rate=-1.0"),
        (lambda: ct.linear(0.1, 10, warmup_steps=-1), "warmup_steps=-1"),
        (lambda: ct.cosine(0.1, 10, warmup_steps=10), "warmup_steps=10 of total_steps=10"),
        (lambda: ct.one_cycle(0.1, 10, pct_start=0.0), "pct_start=0.0"),
        (lambda: ct.one_cycle(0.1, 10, pct_start=1.0), "pct_start=1.0"),
        (lambda: ct.one_cycle(0.1, 10, pct_start=math.nan), "pct_start=nan"),
        (lambda: ct.one_cycle(0.1, 10, div=0.5), "div=0.5"),
        (lambda: ct.one_cycle(0.1, 10, final_div=0.0), "final_div=0.0"),
        (lambda: ct.one_cycle(0.1, 10, final_div=math.nan), "final_div=nan"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name_and_value(make, named):
    with pytest.raises(ct.ConfigError, match=named):
        make()


def test_no_steps_says_what_to_pass():
    with pytest.raises(ct.ConfigError, match=r"pass len\(loader\) \* epochs"):
        ct.cosine(0.1, 0)


def test_a_negative_step_is_refused():
    with pytest.raises(ct.ConfigError, match="step=-1"):
        ct.constant(0.1)(-1)


@pytest.mark.parametrize(("given_rate", "expected"), [(0.1, ct.constant(0.1)), (1, ct.constant(1.0))])
def test_a_number_is_a_constant_schedule(given_rate, expected):
    assert as_schedule(given_rate) == expected


def test_a_schedule_stays_itself():
    schedule = ct.cosine(0.1, 10)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("wrong", ["0.1", None, True, [0.1]])
def test_what_is_no_rate_is_refused_by_type(wrong):
    with pytest.raises(ct.ConfigError, match=type(wrong).__name__):
        as_schedule(wrong)
