"""Every schedule against its formula in NumPy, and against a framework's own where that is the definition."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import more_schedules as reference

STEPS = 120
BOUND = 1e-12
common = settings(max_examples=40, deadline=None, derandomize=True)
RATES = st.floats(1e-6, 10.0)
FINALS = st.sampled_from([0.0, 1e-3, 0.5])
TOTALS = st.integers(2, 100)
SHARES = st.floats(0.0, 0.9)
PCTS = st.floats(0.05, 0.95)
DIVISORS = st.floats(1.0, 1e5)


def agree(schedule: ct.Schedule, expected: np.ndarray) -> None:
    """1e-12 of each value, or a few units in the last place of the largest where cosines cancel."""
    found = schedule.table(len(expected))
    np.testing.assert_allclose(found, expected, rtol=BOUND, atol=4e-15 * np.abs(expected).max())


@common
@given(peak=RATES, total=TOTALS, power=st.floats(0.1, 4.0), share=SHARES, final=FINALS)
def test_polynomial(peak: float, total: int, power: float, share: float, final: float) -> None:
    warmup = int(total * share)
    agree(
        ct.polynomial(peak, total, power=power, warmup_steps=warmup, final=final),
        reference.polynomial(STEPS, peak, total, power, warmup, final),
    )


@common
@given(peak=RATES, total=TOTALS, share=SHARES, decay=SHARES, shape=st.sampled_from(["linear", "cosine", "1-sqrt"]))
@pytest.mark.parametrize("final", [0.0, 0.01])
def test_warmup_stable_decay(peak: float, total: int, share: float, decay: float, shape: Any, final: float) -> None:
    warmup = int(total * share)
    decay_steps = max(1, int((total - warmup) * decay))
    agree(
        ct.warmup_stable_decay(peak, total, warmup_steps=warmup, decay_steps=decay_steps, shape=shape, final=final),
        reference.warmup_stable_decay(STEPS, peak, total, warmup, decay_steps, shape, final),
    )


@common
@given(peak=RATES, every=st.integers(1, 50), factor=st.floats(0.1, 1.0), milestones=st.sets(st.integers(0, 110)))
def test_step_decay(peak: float, every: int, factor: float, milestones: set[int]) -> None:
    agree(ct.step_decay(peak, every, factor=factor), reference.step_decay(STEPS, peak, every, factor))
    agree(
        ct.multi_step_decay(peak, sorted(milestones), factor=factor),
        reference.multi_step_decay(STEPS, peak, sorted(milestones), factor),
    )


@common
@given(peak=RATES, total=TOTALS, pct=PCTS, div=DIVISORS, final_div=DIVISORS)
def test_one_cycle_of_fastai_and_optax(peak: float, total: int, pct: float, div: float, final_div: float) -> None:
    options: Any = {"pct_start": pct, "div": div, "final_div": final_div}
    agree(
        ct.one_cycle(peak, total, **options),
        reference.one_cycle(STEPS, total, pct, [peak / div, peak, peak / final_div]),
    )
    agree(
        ct.optax_one_cycle(peak, total, **options),
        reference.optax_one_cycle(STEPS, total, pct, [peak / div, peak, peak / div / final_div]),
    )


@common
@given(peak=RATES, total=st.integers(30, 100), pct=st.floats(0.05, 0.5), div=DIVISORS, final_div=DIVISORS)
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_one_cycle_of_torch(
    peak: float, total: int, pct: float, div: float, final_div: float, anneal: Any, three_phase: bool
) -> None:
    shape: Any = {"pct_start": pct, "anneal": anneal, "three_phase": three_phase}
    first, last = peak / div, peak / div / final_div
    agree(
        ct.torch_one_cycle(peak, total, div=div, final_div=final_div, **shape),
        reference.torch_one_cycle(STEPS, total, pct, [first, peak, *[first] * three_phase, last], anneal),
    )
    agree(
        ct.torch_one_cycle_momentum(total, high=0.9, low=0.2, **shape),
        reference.torch_one_cycle(STEPS, total, pct, [0.9, 0.2, 0.9, *[0.9] * three_phase], anneal),
    )


@common
@given(total=TOTALS, pct=PCTS, high=st.floats(0.9, 0.99), low=st.floats(0.0, 0.9))
def test_momentum_of_fastai(total: int, pct: float, high: float, low: float) -> None:
    agree(
        ct.one_cycle_momentum(total, high=high, low=low, pct_start=pct),
        reference.one_cycle(STEPS, total, pct, [high, low, high]),
    )


@common
@given(base=RATES, peak=RATES, half=st.integers(1, 40))
def test_cyclical(base: float, peak: float, half: int) -> None:
    agree(ct.triangular(base, peak, half), reference.triangular(STEPS, base, peak, half, False))
    agree(ct.triangular2(base, peak, half), reference.triangular(STEPS, base, peak, half, True))


@common
@given(start=st.floats(1e-8, 1e-3), end=RATES, count=st.integers(2, 110))
def test_lr_range(start: float, end: float, count: int) -> None:
    agree(ct.lr_range(start, end, count), reference.lr_range(STEPS, start, end, count))


def torch_table(make: Callable[[Any], Any], field: str = "lr", *, lr: float = 0.3, steps: int = 100) -> np.ndarray:
    """What a torch scheduler writes into its optimizer before each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    table = []
    for _ in range(steps):
        table.append(optimizer.param_groups[0][field])
        optimizer.step()
        scheduler.step()
    return np.array(table)


ONE_CYCLES = [
    {},
    {"anneal": "linear"},
    {"three_phase": True},
    {"anneal": "linear", "three_phase": True},
    {"pct_start": 0.237},
]
schedulers = torch.optim.lr_scheduler


@pytest.mark.parametrize("options", ONE_CYCLES, ids=str)
def test_torch_one_cycle_is_torchs_one_cycle_lr(options: dict[str, Any]) -> None:
    renamed = {"anneal_strategy" if name == "anneal" else name: value for name, value in options.items()}

    def make(optimizer: Any) -> Any:
        return schedulers.OneCycleLR(optimizer, max_lr=0.3, total_steps=100, **renamed)

    agree(ct.torch_one_cycle(0.3, 100, **options), torch_table(make))
    agree(ct.torch_one_cycle_momentum(100, **options), torch_table(make, "momentum"))


@pytest.mark.parametrize("mode", ["triangular", "triangular2"])
def test_triangular_is_torchs_cyclic_lr_and_its_momentum_from_high_to_low(mode: str) -> None:
    def make(optimizer: Any) -> Any:
        return schedulers.CyclicLR(optimizer, 0.01, 0.3, step_size_up=7, mode=mode, base_momentum=0.8, max_momentum=0.9)

    cyclic = getattr(ct, mode)
    agree(cyclic(0.01, 0.3, 7), torch_table(make))
    agree(cyclic(0.9, 0.8, 7), torch_table(make, "momentum"))


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (ct.linear(0.3, 80, final=0.03), lambda o: schedulers.LinearLR(o, 1.0, 0.1, total_iters=80)),
        (ct.polynomial(0.3, 80, power=2.5), lambda o: schedulers.PolynomialLR(o, total_iters=80, power=2.5)),
        (ct.step_decay(0.3, 13, factor=0.5), lambda o: schedulers.StepLR(o, 13, gamma=0.5)),
        (ct.multi_step_decay(0.3, (5, 6, 70)), lambda o: schedulers.MultiStepLR(o, [5, 6, 70])),
    ],
    ids=["linear", "polynomial", "step", "multi-step"],
)
def test_torchs_other_schedulers(schedule: ct.Schedule, make: Callable[[Any], Any]) -> None:
    agree(schedule, torch_table(make))


def test_cosine_is_torchs_cosine_annealing_until_its_end() -> None:
    """Past T_max torch goes up again; ours keeps its final rate."""
    found = torch_table(lambda o: schedulers.CosineAnnealingLR(o, 99, eta_min=0.01))
    agree(ct.cosine(0.3, 99, final=0.01), found)


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (ct.optax_one_cycle(0.3, 90), lambda: optax.cosine_onecycle_schedule(90, 0.3)),
        (
            ct.optax_one_cycle(0.3, 91, pct_start=0.237, div=7.0, final_div=90.0),
            lambda: optax.cosine_onecycle_schedule(91, 0.3, 0.237, 7.0, 90.0),
        ),
        (ct.optax_one_cycle(0.3, 90, pct_start=0.001), lambda: optax.cosine_onecycle_schedule(90, 0.3, 0.001)),
        (ct.polynomial(0.3, 80, power=2.5, final=0.01), lambda: optax.polynomial_schedule(0.3, 0.01, 2.5, 80)),
        (ct.linear(0.3, 80, final=0.01), lambda: optax.linear_schedule(0.3, 0.01, 80)),
        (
            ct.cosine(0.3, 80, warmup_steps=10, final=0.01),
            lambda: optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, 80, 0.01),
        ),
        (ct.step_decay(0.3, 13, factor=0.5), lambda: optax.exponential_decay(0.3, 13, 0.5, staircase=True)),
    ],
    ids=["one-cycle", "one-cycle-options", "one-cycle-without-rise", "polynomial", "linear", "cosine", "step"],
)
def test_optaxs_schedules(schedule: ct.Schedule, make: Callable[[], Callable[[Any], Any]]) -> None:
    with jax.enable_x64(True):
        expected = np.asarray(jax.vmap(make())(np.arange(100)))
    assert expected.dtype == np.float64
    agree(schedule, expected)


@pytest.mark.parametrize(
    ("rate", "momentum", "turn"),
    [
        (ct.one_cycle(1.0, 100), ct.one_cycle_momentum(100), 25),
        (ct.torch_one_cycle(1.0, 100), ct.torch_one_cycle_momentum(100), 29),
        (ct.triangular(0.1, 1.0, 30), ct.triangular(0.95, 0.85, 30), 30),
    ],
    ids=["fastai", "torch", "triangular"],
)
def test_momentum_is_low_where_the_rate_is_high(rate: ct.Schedule, momentum: ct.Schedule, turn: int) -> None:
    assert int(rate.table(60).argmax()) == int(momentum.table(60).argmin()) == turn
    assert (rate(turn), momentum(turn), momentum(0)) == pytest.approx((1.0, 0.85, 0.95), rel=1e-15)


@pytest.mark.parametrize(
    ("make", "final"),
    [
        (lambda: ct.polynomial(1.0, 10, power=2.0, final=0.2), 0.2),
        (lambda: ct.warmup_stable_decay(1.0, 10, warmup_steps=2, decay_steps=3, final=0.2), 0.2),
        (lambda: ct.optax_one_cycle(1.0, 10), 1 / 25e4),
        (lambda: ct.torch_one_cycle(1.0, 10), 1 / 25e4),
        (lambda: ct.one_cycle_momentum(10), 0.95),
        (lambda: ct.torch_one_cycle_momentum(10), 0.95),
        (lambda: ct.lr_range(1e-3, 2.0, 10), 2.0),
    ],
)
def test_past_the_last_step_the_final_value_holds(make: Callable[[], ct.Schedule], final: float) -> None:
    schedule = make()
    assert schedule(10) == schedule(11) == schedule(10**6) == pytest.approx(final, rel=1e-15)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ct.polynomial(0.1, 10, power=0.0), "power=0.0"),
        (lambda: ct.polynomial(0.1, 10, power=math.nan), "power=nan"),
        (lambda: ct.polynomial(0.1, 10, warmup_steps=10), "warmup_steps=10 of total_steps=10"),
        (lambda: ct.warmup_stable_decay(0.1, 10, warmup_steps=5, decay_steps=6), "decay_steps=6 of 10"),
        (lambda: ct.warmup_stable_decay(0.1, 10, warmup_steps=5, decay_steps=0), "decay_steps=0"),
        (lambda: ct.warmup_stable_decay(0.1, 9, warmup_steps=0, decay_steps=1, shape="sqrt"), "shape='sqrt'"),
        (lambda: ct.step_decay(0.1, 0), "every=0"),
        (lambda: ct.step_decay(0.1, 5, factor=-0.5), "factor=-0.5"),
        (lambda: ct.multi_step_decay(0.1, [7, 3]), r"milestones=\(7, 3\)"),
        (lambda: ct.multi_step_decay(0.1, [-1]), r"milestones=\(-1,\)"),
        (lambda: ct.torch_one_cycle(0.1, 0), "total_steps=0"),
        (lambda: ct.torch_one_cycle(0.1, 3), "pct_start=0.3 of total_steps=3"),
        (lambda: ct.torch_one_cycle(0.1, 99, pct_start=0.6, three_phase=True), "pct_start=0.6 of total_steps=99"),
        (lambda: ct.torch_one_cycle(0.1, 10, anneal="cosine"), "anneal='cosine'"),
        (lambda: ct.torch_one_cycle(0.1, 10, final_div=0.5), "final_div=0.5"),
        (lambda: ct.torch_one_cycle_momentum(10, high=1.0), "high=1.0"),
        (lambda: ct.optax_one_cycle(0.1, 10, pct_start=1.0), "pct_start=1.0"),
        (lambda: ct.one_cycle_momentum(10, low=-0.1), "low=-0.1"),
        (lambda: ct.one_cycle_momentum(0), "total_steps=0"),
        (lambda: ct.triangular(0.1, 1.0, 0), "half_cycle_steps=0"),
        (lambda: ct.triangular2(-0.1, 1.0, 5), "base=-0.1"),
        (lambda: ct.lr_range(0.0, 1.0, 5), "start=0.0"),
        (lambda: ct.lr_range(0.1, 1.0, 1), "steps=1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name_and_value(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ct.ConfigError, match=named):
        make()
