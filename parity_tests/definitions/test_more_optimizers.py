"""Every optimizer of both engines against the NumPy reference, over 100 updates with changing gradients, in float64."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.optim import NAdam, RAdam
from parity_tests.tolerances import assert_close

from .optimizer_cases import (
    CASES,
    SIZES,
    UPDATES,
    WITH_MOMENTUM,
    Problem,
    advance,
    assert_same,
    expected,
    momenta_of,
    prepared,
    problem,
    role_of,
    same_for_all,
    sizes_of_parameters,
)

few = settings(max_examples=5, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", CASES)
@few
@given(data=st.data())
def test_updates(backend: str, name: str, data: Any) -> None:
    case = CASES[name]
    numbers = {key: data.draw(strategy, key) for key, strategy in case.numbers.items()}
    momentum = data.draw(st.sampled_from([0.5, 0.9, 0.95]), "momentum") if case.momentum is not None else None
    decay = data.draw(st.sampled_from([0.0, 1e-3, 0.1]), "weight decay")
    rate = data.draw(st.sampled_from([1e-3, 1e-2, 0.3]), "rate")
    where = problem(data.draw(sizes_of_parameters, "sizes"))
    schedule = ct.cosine(rate, UPDATES, warmup_steps=5)
    state = prepared(backend, where, case.make(schedule, momentum, weight_decay=decay, **numbers))
    rates = schedule.table(UPDATES)
    assert_same(advance(state, where), expected(name, where, rates, momenta_of(momentum), numbers, same_for_all(decay)))


@pytest.mark.parametrize("name", CASES)
def test_groups_scale_rates_and_take_decay_off(backend: str, name: str) -> None:
    case, where = CASES[name], problem()
    groups = (ct.undecayed(), ct.ParamGroup(match="wide|embed", rate_scale=0.1, weight_decay=0.5))
    state = prepared(backend, where, case.make(1e-2, case.momentum, weight_decay=0.1, groups=groups, **case.usual))

    def of(each: str) -> tuple[float, float]:
        if role_of(each) in ("bias", "norm"):
            return 1.0, 0.0
        return (0.1, 0.5) if each in ("wide.weight", "embed.weight") else (1.0, 0.1)

    wanted = expected(name, where, np.full(UPDATES, 1e-2), momenta_of(case.momentum), case.usual, of)
    assert_same(advance(state, where), wanted)


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_momentum_follows_its_schedule(backend: str, name: str) -> None:
    """It is 0 at the first update, and from the sixtieth on."""
    case, where = CASES[name], problem()
    momentum = ct.linear(0.9, 60, warmup_steps=10)
    state = prepared(backend, where, case.make(1e-2, momentum, weight_decay=0.0, **case.usual))
    rates, momenta = np.full(UPDATES, 1e-2), momentum.table(UPDATES)
    assert_same(advance(state, where), expected(name, where, rates, momenta, case.usual, same_for_all(0.0)))


@pytest.mark.parametrize("order", [("jax", "torch"), ("torch", "jax")], ids="-".join)
@pytest.mark.parametrize("name", CASES)
def test_the_other_engine_continues_a_snapshot(name: str, order: tuple[str, str]) -> None:
    case, where = CASES[name], problem()
    momentum = None if case.momentum is None else ct.linear(case.momentum, UPDATES, final=0.5)
    spec = case.make(1e-2, momentum, weight_decay=0.1, **case.usual)
    first, second = (prepared(backend, where, spec) for backend in order)
    advance(first, where, until=40)
    second.load(first.snapshot())
    rates, momenta = np.full(UPDATES, 1e-2), None if momentum is None else momentum.table(UPDATES)
    assert_same(advance(second, where), expected(name, where, rates, momenta, case.usual, same_for_all(0.1)))


@pytest.mark.parametrize("name", CASES)
def test_moments_are_zero_before_the_first_update(backend: str, name: str) -> None:
    case, where = CASES[name], problem()
    found = prepared(backend, where, case.make(1e-2, case.momentum, **case.usual)).snapshot().moments
    wanted = expected(name, where, np.zeros(1), momenta_of(case.momentum, 1), case.usual, same_for_all(0.0)).moments
    assert shapes_of(found) == shapes_of(wanted)
    assert not any(moment.any() for moments in found.values() for moment in moments.values())


def shapes_of(moments: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {slot: {name: each.shape for name, each in values.items()} for slot, values in moments.items()}


def test_moments_of_another_optimizer_are_refused(backend: str) -> None:
    where, others = problem(), problem((3, 2, 5))
    lion_state, muon_state = (prepared(backend, where, spec) for spec in (ct.lion(1e-3), ct.muon(1e-3)))
    with pytest.raises(ct.ConfigError, match="missing: first_moment, second_moment"):
        muon_state.load(lion_state.snapshot())
    with pytest.raises(ct.ConfigError, match=r"the snapshot's momentum .* missing: .*embed\.weight"):
        lion_state.load(muon_state.snapshot())
    factored, wider = (prepared(backend, each, ct.adafactor(1e-3)) for each in (where, others))
    moments = factored.snapshot().moments
    with pytest.raises(ct.ConfigError, match=r"must have shape \(10, 1\), got \(8, 1\)"):
        wider.load(dataclasses.replace(wider.snapshot(), moments=moments))


@pytest.mark.parametrize("name", CASES)
def test_low_precision_weights_and_moments_keep_their_type(backend: str, name: str) -> None:
    """Every number of a bfloat16 run is one: rates and momenta, which are wider, make no wider weights."""
    case, where = CASES[name], problem()
    low = ct.Precision(param_dtype="bfloat16", compute_dtype="bfloat16")
    state = prepared(backend, where, case.make(1e-2, case.momentum, weight_decay=0.1, **case.usual), low)
    found = advance(state, where, until=3)
    for values in (found.params, *found.moments.values()):
        for each in values.values():
            np.testing.assert_array_equal(each, each.astype(ml_dtypes.bfloat16).astype(each.dtype))


@pytest.mark.parametrize("beta2", [0.999, 0.99999])
@pytest.mark.parametrize("name", ["nadam", "radam", "lamb"])
def test_float32_keeps_its_digits_in_the_first_updates(backend: str, name: str, beta2: float) -> None:
    """1 - beta^t and RAdam's rho_t are small differences of large numbers."""
    case, updates = CASES[name], 12
    start = {each: np.zeros(p.shape) for each, p in problem().start.items()}
    grads = {each: [np.full(p.shape, 0.5 + 0.01 * i) for i in range(updates)] for each, p in start.items()}
    where, numbers = Problem(SIZES, start, grads), dict(case.usual) | {"beta2": beta2}
    found = advance(prepared(backend, where, case.make(1.0, 0.9, **numbers), "fp32"), where, updates)
    wanted = expected(name, where, np.ones(updates), momenta_of(0.9, updates), numbers, same_for_all(0.0))
    assert_close(found.params, wanted.params, "update", "float32")


def test_what_an_update_carries_follows_from_the_step() -> None:
    spec = ct.nadam(1e-3, betas=(ct.linear(0.9, 10, final=0.5), 0.999), momentum_decay=0.1)
    assert isinstance(spec, NAdam)
    mus = [0.9 * (1 - 0.5 * 0.96**0.1), (0.9 - 0.04) * (1 - 0.5 * 0.96**0.2)]
    assert spec.carried(range(0)) == {"mu_product": 1.0}
    assert spec.carried(range(2))["mu_product"] == pytest.approx(mus[0] * mus[1], rel=1e-14)
    assert spec.carried(range(10**9))["mu_product"] == 0.0
    assert ct.adam(1e-3).carried(range(5)) == {}


@pytest.mark.parametrize(("beta2", "adapts"), [(0.6, False), (0.9, True), (0.999, True)])
def test_radam_leaves_the_second_moment_out_while_it_is_young(beta2: float, adapts: bool) -> None:
    spec = ct.radam(1e-3, betas=(0.9, beta2))
    assert isinstance(spec, RAdam)
    assert spec.rectification(5) == 0.0
    assert (spec.rectification(20) > 0) == adapts
    assert spec.rectification(10**6) == pytest.approx(float(adapts))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ct.rmsprop(1e-3, alpha=1.0), "alpha=1.0"),
        (lambda: ct.rmsprop(1e-3, momentum=1.0), "momentum=1.0"),
        (lambda: ct.adagrad(1e-3, eps=-1.0), "eps=-1.0"),
        (lambda: ct.nadam(1e-3, momentum_decay=-1.0), "momentum_decay=-1.0"),
        (lambda: ct.nadam(1e-3, betas=(1.0, 0.9)), r"betas\[0\]=1.0"),
        (lambda: ct.radam(1e-3, betas=(0.9, 1.0)), r"betas\[1\]=1.0"),
        (lambda: ct.lion(1e-3, betas=(0.9, -0.1)), r"betas\[1\]=-0.1"),
        (lambda: ct.lamb(1e-3, eps=-1.0), "eps=-1.0"),
        (lambda: ct.adafactor(1e-3, eps=(-1.0, 1e-3)), r"eps\[0\]=-1.0"),
        (lambda: ct.adafactor(1e-3, clip_threshold=0.5), "clip_threshold=0.5"),
        (lambda: ct.adafactor(1e-3, beta2_decay=0.5), "beta2_decay=0.5"),
        (lambda: ct.muon(1e-3, momentum=-0.5), "momentum=-0.5"),
        (lambda: ct.muon(1e-3, fallback_scale=-1.0), "fallback_scale=-1.0"),
        (lambda: ct.muon(1e-3, weight_decay=-1.0), "weight_decay=-1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ct.ConfigError, match=named):
        make()
