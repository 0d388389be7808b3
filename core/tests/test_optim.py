"""Optimizer specs: defaults, equality, the numbers of a step, parameter groups, averages, and what they refuse."""

import math

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.optim import Adam, AdamW, Hyper, ParamSettings, Sgd


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        (ct.sgd(0.1), Sgd, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
        (ct.adam(0.1), Adam, {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
        (ct.adamw(0.1), AdamW, {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    ],
)
def test_defaults(spec, kind, expected):
    assert type(spec) is kind
    assert {name: getattr(spec, name) for name in expected} == expected
    assert spec.learning_rate == ct.constant(0.1)
    assert spec.groups == ()


def test_specs_are_plain_data():
    assert ct.adamw(1e-3) == ct.adamw(1e-3) != ct.adamw(1e-3, eps=1e-7)
    assert ct.adam(1e-3, weight_decay=0.01) != ct.adamw(1e-3)
    assert hash(ct.sgd(0.1)) == hash(ct.sgd(0.1))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ct.sgd(-0.1), "learning rate=-0.1"),
        (lambda: ct.adamw(-1e-3), "learning rate=-0.001"),
        (lambda: ct.adam(math.nan), "learning rate=nan"),
        (lambda: ct.sgd("0.1"), "got str"),
        (lambda: ct.sgd(0.1, momentum=1.0), "momentum=1.0"),
        (lambda: ct.sgd(0.1, momentum=-0.5), "momentum=-0.5"),
        (lambda: ct.sgd(0.1, momentum=math.nan), "momentum=nan"),
        (lambda: ct.sgd(0.1, momentum=ct.linear(1.5, 10)), "momentum=1.5"),
        (lambda: ct.sgd(0.1, nesterov=True), "nesterov needs momentum above 0"),
        (lambda: ct.sgd(0.1, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: ct.adam(0.1, betas=(1.0, 0.9)), r"betas\[0\]=1.0"),
        (lambda: ct.adam(0.1, betas=(0.9, 1.0)), r"betas\[1\]=1.0"),
        (lambda: ct.adamw(0.1, betas=(-0.1, 0.9)), r"betas\[0\]=-0.1"),
        (lambda: ct.adamw(0.1, eps=-1e-8), "eps=-1e-08"),
        (lambda: ct.adamw(0.1, weight_decay=math.nan), "weight_decay=nan"),
        (lambda: ct.ParamGroup(rate_scale=-1.0), "rate_scale=-1.0"),
        (lambda: ct.ParamGroup(weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: ct.ParamGroup(roles=("gamma",)), "gamma"),
        (lambda: ct.ParamGroup(match="("), r"match='\('"),
        (lambda: ct.ema(1.0), "decay=1.0"),
        (lambda: ct.swa(-1), "start=-1"),
        (lambda: ct.swa(0, every=0), "every=0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name_and_value(make, named):
    with pytest.raises(ct.ConfigError, match=named):
        make()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ct.sgd(ct.linear(1.0, 10)), Hyper(0.5, 0.0)),
        (ct.sgd(0.1, momentum=0.9), Hyper(0.1, 0.9)),
        (ct.sgd(0.1, momentum=ct.linear(0.9, 10, final=0.5)), Hyper(0.1, 0.7)),
        (ct.adam(0.1, betas=(0.8, 0.99)), Hyper(0.1, 0.8)),
        (ct.adamw(0.1, betas=(ct.linear(0.9, 10, final=0.5), 0.99)), Hyper(0.1, 0.7)),
    ],
)
def test_the_numbers_of_a_step_follow_their_schedules(spec, expected):
    assert spec.hyper(5) == pytest.approx(expected)


@pytest.mark.parametrize(
    "spec",
    [
        ct.sgd(0.1, momentum=ct.linear(0.5, 10, final=1.5)),
        ct.adamw(0.1, betas=(ct.linear(0.5, 10, final=1.5), 0.99)),
        ct.rmsprop(0.1, momentum=ct.linear(0.5, 10, final=1.5)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_momentum_that_leaves_its_range_later_is_refused_at_that_step(spec):
    assert [spec.hyper(step).momentum for step in range(5)] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    with pytest.raises(ct.ConfigError, match=r"momentum must be in \[0, 1\) at every step, got 1.0 at step 5"):
        spec.hyper(5)


def test_one_group_without_a_tuple_is_refused():
    with pytest.raises(ct.ConfigError, match=r"groups must be a tuple of ParamGroup, got groups=ParamGroup\(match=''"):
        ct.adamw(1e-3, groups=ct.undecayed())


def test_a_parameter_belongs_to_the_first_group_that_matches():
    spec = ct.adamw(
        1e-3,
        weight_decay=0.1,
        groups=(ct.undecayed(), ct.ParamGroup(match="^head", rate_scale=0.5), ct.ParamGroup(match="head")),
    )
    assert spec.settings("head.bias", "bias") == ParamSettings(1.0, 0.0)
    assert spec.settings("head.weight", "weight") == ParamSettings(0.5, 0.1)
    assert spec.settings("body.head.weight", "weight") == ParamSettings(1.0, 0.1)
    assert spec.settings("body.weight", "weight") == ParamSettings(1.0, 0.1)


@pytest.mark.parametrize(
    ("group", "undecayed"),
    [(ct.undecayed(), {"bias", "norm"}), (ct.undecayed("embedding"), {"embedding"})],
)
def test_undecayed_takes_the_decay_off_its_roles(group, undecayed):
    spec = ct.adamw(1e-3, weight_decay=0.1, groups=(group,))
    roles = ("weight", "bias", "norm", "embedding")
    assert {role for role in roles if spec.settings("x", role).weight_decay == 0} == undecayed


def test_ema_keeps_its_share():
    assert [ct.ema(0.75).weight(step) for step in (0, 1, 100)] == [0.25, 0.25, 0.25]


def test_swa_is_the_mean_of_what_it_samples():
    average = ct.swa(2, every=3)
    value = mean = 0.0
    samples = []
    for step in range(12):
        value += 1.0
        mean += average.weight(step) * (value - mean)
        if step >= 2 and (step - 2) % 3 == 0:
            samples.append(value)
            assert mean == pytest.approx(sum(samples) / len(samples), rel=1e-15)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"every": 0}, "every=0"), ({"learning_rate": 0.0}, "learning_rate=0.0"), ({"momentum": 1.0}, "momentum=1.0")],
)
def test_outer_steps_out_of_range_are_refused(options, named):
    with pytest.raises(ct.ConfigError, match=named):
        ct.DiLoCo(**({"every": 2} | options))


def test_an_outer_step_of_rate_1_without_momentum_is_the_mean():
    start, mean = np.float32([1.0, -2.0]), np.float32([0.5, 4.0])
    weights, velocity = ct.DiLoCo(every=1, learning_rate=1.0, momentum=0.0).update(start, mean, np.zeros_like(start))
    assert weights.tolist() == mean.tolist()
    assert velocity.tolist() == (start - mean).tolist()
    assert weights.dtype == np.float32
