"""Plans of rates against the formulas of fastai, in plain numbers."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.checkpoint.specs import describe, rebuild
from crosstrain.optim import OptimizerSpec
from crosstrain.schedules import Override
from crosstrain.training.plans import Cycle, cut, fine_tune_plan, flat_cos_plan, give_back, layer_rates, one_cycle_plan

LAYERS = ("^body", "^middle", "^head")


def fastai_cycle(i: int, steps: int, peak: float, pct: float, div: float, final: float) -> float:
    def cos(a: float, b: float, p: float) -> float:
        return a + (1 + math.cos(math.pi * (1 - p))) * (b - a) / 2

    p = i / steps
    return cos(peak / div, peak, p / pct) if p < pct else cos(peak, peak / final, (p - pct) / (1 - pct))


def test_one_cycle_replaces_rate_and_momentum_of_its_own_steps_only():
    plan = one_cycle_plan(ct.adamw(0.5, betas=(0.8, 0.99)), 1e-2, Cycle(), LAYERS, start=5, steps=20)
    rates = plan.learning_rate.table(30)
    assert rates[:5].tolist() == [0.5] * 5
    assert rates[25:].tolist() == [0.5] * 5
    expected = [fastai_cycle(i, 20, 1e-2, 0.25, 25.0, 1e5) for i in range(20)]
    assert rates[5:25] == pytest.approx(expected, rel=1e-12)
    momenta = [plan.momentum_at(step) for step in range(30)]
    assert momenta[0] == momenta[29] == 0.8
    assert momenta[5] == pytest.approx(0.95)
    assert momenta[10] == pytest.approx(0.85)
    assert plan.betas[1] == 0.99


def test_flat_cos_is_flat_then_half_a_cosine():
    plan = flat_cos_plan(ct.sgd(1.0), 0.1, LAYERS, 0, 40, final_div=1e5, pct_start=0.75)
    rates = plan.learning_rate.table(41)
    assert rates[:31] == pytest.approx([0.1] * 31)
    assert rates[35] == pytest.approx(0.1 / 1e5 + (0.1 - 0.1 / 1e5) / 2)
    assert rates[40] == 1.0


def test_fine_tune_has_two_cycles_and_freezes_all_but_the_head_in_the_first():
    plan = fine_tune_plan(ct.adamw(1.0), 2e-3, LAYERS, 10, (8, 24), lr_mult=100.0, pct_start=0.3, div=5.0)
    rates = plan.learning_rate.table(42)
    assert rates[10:18] == pytest.approx([fastai_cycle(i, 8, 2e-3, 0.99, 25.0, 1e5) for i in range(8)], rel=1e-12)
    assert rates[18:42] == pytest.approx([fastai_cycle(i, 24, 1e-3, 0.3, 5.0, 1e5) for i in range(24)], rel=1e-12)
    body, middle, head = (plan.settings(f"{name}.weight", "weight") for name in ("body", "middle", "head"))
    assert (body.rate_scale, middle.rate_scale, head.rate_scale) == pytest.approx((0.01, 0.1, 1.0))
    assert [body.frozen_at(step) for step in (9, 10, 17, 18)] == [False, True, True, False]
    assert not head.frozen
    assert not plan.settings("body.norm.weight", "norm").frozen
    assert list(body.updates(20)) == [*range(10), 18, 19]


def test_a_second_plan_keeps_what_was_frozen_before():
    first = fine_tune_plan(ct.adamw(1.0), 2e-3, LAYERS, 0, (4, 4), lr_mult=100.0, pct_start=0.3, div=5.0)
    second = fine_tune_plan(first, 2e-3, LAYERS, 8, (4, 4), lr_mult=10.0, pct_start=0.3, div=5.0)
    body = second.settings("body.weight", "weight")
    assert body.rate_scale == pytest.approx(0.1)
    assert list(body.updates(14)) == [4, 5, 6, 7, 12, 13]
    assert second.learning_rate(3) == first.learning_rate(3)


def test_fine_tuning_lets_learn_again_what_was_frozen_before():
    by_hand = ct.LayerGroup(match="^body", frozen=((2, None),))
    base = replace(ct.adamw(1.0), layers=(by_hand,))
    plan = fine_tune_plan(base, 2e-3, LAYERS, 6, (4, 4), lr_mult=100.0, pct_start=0.3, div=5.0)
    assert list(plan.settings("body.weight", "weight").updates(14)) == [0, 1, 10, 11, 12, 13]
    assert list(plan.settings("body.norm.weight", "norm").updates(8)) == [0, 1, 6, 7]


def test_a_plan_that_was_stopped_ends_there():
    base = ct.sgd(1.0, momentum=0.5)
    plan = cut(one_cycle_plan(base, 0.1, Cycle(), LAYERS, 0, 20), 7)
    assert plan.learning_rate(6) < 1.0
    assert plan.learning_rate(7) == 1.0
    assert plan.momentum_at(7) == 0.5
    assert cut(one_cycle_plan(base, 0.1, Cycle(), LAYERS, 3, 20), 3).learning_rate == base.learning_rate
    tuned = fine_tune_plan(base, 2e-3, LAYERS, 0, (8, 8), lr_mult=100.0, pct_start=0.3, div=5.0)
    assert list(cut(tuned, 5).settings("body.weight", "weight").updates(7)) == [5, 6]


def test_after_a_plan_layers_have_the_shares_from_before():
    shares = ct.LayerGroup(match="^body", rate_scale=0.5, frozen=((1, 2),))
    base = replace(ct.adamw(1.0), layers=(shares,))
    plan = fine_tune_plan(base, 2e-3, LAYERS, 3, (4, 4), lr_mult=100.0, pct_start=0.3, div=5.0)
    after = give_back(plan, base)
    body, middle = (after.settings(f"{name}.weight", "weight") for name in ("body", "middle"))
    assert (body.rate_scale, middle.rate_scale) == (0.5, 1.0)
    assert list(body.updates(12)) == [0, 2, 7, 8, 9, 10, 11] == list(plan.settings("body.weight", "weight").updates(12))
    assert give_back(after, base) == after


def test_rates_of_layers_as_fastai_spaces_them():
    assert layer_rates(0.1, LAYERS) == (0.1, (1.0, 1.0, 1.0))
    peak, scales = layer_rates(slice(1e-5, 1e-3), LAYERS)
    assert peak == 1e-3
    assert np.array(scales) * peak == pytest.approx([1e-5, 1e-4, 1e-3])
    assert layer_rates(slice(1e-3), LAYERS) == (1e-3, (0.1, 0.1, 1.0))
    for wrong in (slice(1e-3, None), slice(0.0, 1e-3), slice(1e-3, 1e-2, 2)):
        with pytest.raises(ct.ConfigError, match="a rate must be a number, slice"):
            layer_rates(wrong, LAYERS)


@pytest.mark.parametrize("form", ["fastai", "torch", "smith"])
def test_every_form_cycles_the_momentum_against_the_rate(form: str):
    plan = one_cycle_plan(ct.sgd(1.0, momentum=0.9), 0.3, Cycle(form=form), LAYERS, 0, 101)
    rates, momenta = plan.learning_rate.table(101), np.array([plan.momentum_at(step) for step in range(101)])
    top = int(rates.argmax())
    assert rates[top] == pytest.approx(0.3, rel=1e-3)
    assert momenta.argmin() == top
    assert momenta[0] == pytest.approx(0.95)
    assert momenta.min() == pytest.approx(0.85, abs=1e-3)
    assert (np.diff(momenta) * np.diff(rates) <= 1e-12).all()


@pytest.mark.parametrize("form", ["fastai", "torch", "smith"])
def test_a_plan_is_rebuilt_from_what_a_checkpoint_says_of_it(form: str):
    tuned = fine_tune_plan(ct.adamw(1.0), 2e-3, LAYERS, 0, (4, 4), lr_mult=100.0, pct_start=0.3, div=5.0)
    plan = one_cycle_plan(tuned, slice(1e-4, 0.3), Cycle(form=form), LAYERS, 8, 101)
    written = json.loads(json.dumps(describe(plan)))
    assert rebuild("the optimizer", written, OptimizerSpec) == plan


def test_smith_in_his_own_numbers():
    rates = ct.smith_one_cycle(1.0, 101, cycle=0.8, div=10.0, final_div=100.0).table(102)
    assert rates[[0, 20, 40, 60, 80, 90, 100, 101]] == pytest.approx(
        [0.1, 0.55, 1.0, 0.55, 0.1, 0.0505, 0.001, 0.001], rel=1e-12
    )


def test_what_a_plan_cannot_use_is_refused():
    with pytest.raises(ct.ConfigError, match="momentum can only be cycled"):
        one_cycle_plan(ct.sgd(0.1), 0.1, Cycle(momentum=(0.95, 0.85)), LAYERS, 0, 10)
    with pytest.raises(ct.ConfigError, match="form must be one of fastai, torch, smith, got form='keras'"):
        Cycle(form="keras")  # type: ignore[arg-type]
    with pytest.raises(ct.ConfigError, match="at least two groups"):
        fine_tune_plan(ct.sgd(0.1), 0.1, ("",), 0, (1, 1), lr_mult=10.0, pct_start=0.3, div=5.0)
    with pytest.raises(ct.ConfigError, match="start must be at least 0 and at most end"):
        Override(base=ct.constant(1.0), part=ct.constant(1.0), start=3, end=2)
    for momentum in (0.9, (0.9,), "high"):
        with pytest.raises(ct.ConfigError, match=r"momentum must be \(high, low\), 'auto' or None"):
            Cycle(momentum=momentum)  # type: ignore[arg-type]
    for rate in (None, "0.1", slice("1e-3", "1e-2")):
        with pytest.raises(ct.ConfigError, match="a rate must be a number"):
            layer_rates(rate, LAYERS)  # type: ignore[arg-type]
    with pytest.raises(ct.ConfigError, match="cycle must be a Cycle or None, got cycle='torch'"):
        one_cycle_plan(ct.sgd(0.1), 0.1, "torch", LAYERS, 0, 10)  # type: ignore[arg-type]
    for base, lr_mult in ((slice(1e-3, 1e-2), 100.0), (0.1, 0.0)):
        with pytest.raises(ct.ConfigError, match="base_lr must be a number and lr_mult above 0"):
            fine_tune_plan(ct.sgd(0.1), base, LAYERS, 0, (1, 1), lr_mult=lr_mult, pct_start=0.3, div=5.0)  # type: ignore[arg-type]
