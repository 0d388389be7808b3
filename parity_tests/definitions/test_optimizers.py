"""Optimizers of both engines against the NumPy reference, over 100 updates with changing gradients, in float64.

Weights and moments are compared, and the rates come from the reference's own schedules.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import optimizers as reference
from parity_tests.reference import schedules
from parity_tests.tolerances import assert_close, bound, difference

from .common import Arrays, few

UPDATES = 100
CONFIG = ct.models.MLPConfig(in_features=3, hidden=(4,), out_features=2)


class Rates(NamedTuple):
    """A schedule, and its table by the reference."""

    schedule: ct.Schedule
    table: np.ndarray


RATES = {
    "constant": Rates(ct.constant(1e-2), schedules.constant(1e-2, UPDATES)),
    "linear": Rates(ct.linear(1e-2, 80, final=1e-3), schedules.linear(1e-2, UPDATES, total=80, final=1e-3)),
    "cosine": Rates(ct.cosine(1e-2, UPDATES, warmup_steps=5), schedules.cosine(1e-2, UPDATES, total=UPDATES, warmup=5)),
    "one-cycle": Rates(ct.one_cycle(3e-2, UPDATES), schedules.one_cycle(3e-2, UPDATES, total=UPDATES)),
}
rates = st.sampled_from(sorted(RATES))
decays = st.sampled_from([0.0, 1e-3, 0.1])


class Outcome(NamedTuple):
    """Weights and moments (by slot) after the updates."""

    params: Arrays
    moments: dict[str, Arrays]


def gradients_of(name: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Gradients that change in size and sign; some are zero."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return [generator.normal(size=shape) * 10.0 ** generator.integers(-4, 3) * (i % 7 != 3) for i in range(UPDATES)]


GRADIENTS = {name: gradients_of(name, spec.shape) for name, spec in CONFIG.parameters().items()}


def run(backend: str, spec: Any, **clipping: float) -> Outcome:
    """What an engine makes of the gradients."""
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", CONFIG, accelerator), spec)
    for update in range(UPDATES):
        now = {name: values[update] for name, values in GRADIENTS.items()}
        state.apply_gradients(state.to_gradients(now), **clipping)
    snapshot = state.snapshot()
    return Outcome(dict(snapshot.params), {slot: dict(values) for slot, values in snapshot.moments.items()})


def expect(rule: Any, table: np.ndarray, gradients: Any = None, **numbers: Any) -> Outcome:
    """What the reference makes of them. A number may be a function of the parameter's name."""
    params, moments = {}, {}
    for name, start in CONFIG.initial_weights(0).items():
        own = {key: value(name) if callable(value) else value for key, value in numbers.items()}
        params[name], slots = rule(start, (gradients or GRADIENTS)[name], table * own.pop("scale", 1.0), **own)
        for slot, values in slots.items():
            moments.setdefault(slot, {})[name] = values
    return Outcome(params, moments)


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert_close(found.params, expected.params, "weights")
    assert found.moments.keys() == expected.moments.keys()
    for slot, values in expected.moments.items():
        assert_close(found.moments[slot], values, "moments")


def every(value: float) -> np.ndarray:
    return np.full(UPDATES, value)


@pytest.mark.parametrize("name", sorted(RATES))
def test_schedules(name: str) -> None:
    schedule, table = RATES[name]
    assert difference(schedule.table(UPDATES), table) <= bound("rate")


@few
@given(rate=rates, momentum=st.floats(0.5, 0.99), nesterov=st.booleans(), decay=decays)
def test_sgd(backend: str, rate: str, momentum: float, nesterov: bool, decay: float) -> None:
    schedule, table = RATES[rate]
    found = run(backend, ct.sgd(schedule, momentum=momentum, nesterov=nesterov, weight_decay=decay))
    assert_same(found, expect(reference.sgd, table, momentum=every(momentum), nesterov=nesterov, weight_decay=decay))


@few
@given(
    rate=rates,
    decoupled=st.booleans(),
    beta1=st.sampled_from([0.0, 0.5, 0.9, 0.95]),
    beta2=st.sampled_from([0.0, 0.8, 0.99, 0.999, 0.9999]),
    eps=st.sampled_from([1e-8, 1e-6]),
    decay=decays,
)
def test_adam_and_adamw(
    backend: str, rate: str, decoupled: bool, beta1: float, beta2: float, eps: float, decay: float
) -> None:
    schedule, table = RATES[rate]
    make = ct.adamw if decoupled else ct.adam
    found = run(backend, make(schedule, betas=(beta1, beta2), eps=eps, weight_decay=decay))
    numbers = {"beta1": every(beta1), "beta2": beta2, "eps": eps, "weight_decay": decay, "decoupled": decoupled}
    assert_same(found, expect(reference.adam, table, **numbers))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_plain_sgd_keeps_no_moments(backend: str, decay: float) -> None:
    found = run(backend, ct.sgd(1e-2, weight_decay=decay))
    expected = expect(reference.sgd, every(1e-2), momentum=every(0.0), nesterov=False, weight_decay=decay)
    assert_same(found, expected._replace(moments={}))


# The second one is 0 at the first update, the third one at the last.
MOMENTA = {
    "falling": Rates(ct.linear(0.95, UPDATES, final=0.85), schedules.linear(0.95, UPDATES, total=UPDATES, final=0.85)),
    "from zero": Rates(
        ct.linear(0.95, UPDATES, warmup_steps=10), schedules.linear(0.95, UPDATES, total=UPDATES, warmup=10)
    ),
    "to zero": Rates(ct.cosine(0.95, 60), schedules.cosine(0.95, UPDATES, total=60)),
}


@pytest.mark.parametrize("momentum", sorted(MOMENTA))
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adamw"])
def test_momentum_follows_its_schedule(backend: str, kind: str, momentum: str) -> None:
    schedule, table = MOMENTA[momentum]
    if kind == "adamw":
        found = run(backend, ct.adamw(1e-2, betas=(schedule, 0.99)))
        numbers = {"beta1": table, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.01, "decoupled": True}
        expected = expect(reference.adam, every(1e-2), **numbers)
    else:
        nesterov = kind == "nesterov"
        found = run(backend, ct.sgd(1e-2, momentum=schedule, nesterov=nesterov))
        expected = expect(reference.sgd, every(1e-2), momentum=table, nesterov=nesterov, weight_decay=0.0)
    assert_same(found, expected)


def test_groups_scale_rates_and_take_decay_off(backend: str) -> None:
    groups = (ct.undecayed(), ct.ParamGroup(match=r"layers\.1", rate_scale=0.1, weight_decay=0.5))
    found = run(backend, ct.adamw(1e-2, weight_decay=0.1, groups=groups))
    scales = {"layers.1.weight": 0.1}
    decays = {"layers.0.weight": 0.1, "layers.1.weight": 0.5}
    expected = expect(
        reference.adam,
        every(1e-2),
        scale=lambda name: scales.get(name, 1.0),
        weight_decay=lambda name: decays.get(name, 0.0),
        beta1=every(0.9),
        beta2=0.999,
        eps=1e-8,
        decoupled=True,
    )
    assert_same(found, expected)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize(
    ("option", "clip"), [("clip_norm", reference.clip_by_global_norm), ("clip_value", reference.clip_by_value)]
)
def test_clipping_comes_before_the_update(backend: str, limit: float, option: str, clip: Any) -> None:
    found = run(backend, ct.sgd(1e-2, momentum=0.9), **{option: limit})
    steps = [{name: values[update] for name, values in GRADIENTS.items()} for update in range(UPDATES)]
    clipped = [clip(step, limit) for step in steps]
    gradients = {name: [step[name] for step in clipped] for name in GRADIENTS}
    numbers = {"momentum": every(0.9), "nesterov": False, "weight_decay": 0.0}
    assert_same(found, expect(reference.sgd, every(1e-2), gradients, **numbers))


def test_float32_bias_correction_keeps_its_digits(backend: str) -> None:
    """1 - 0.999^t computed by subtraction in float32 costs 1e-5 of an early update."""
    accelerator = ct.Accelerator(backend, precision="fp32")
    state = accelerator.prepare(ct.models.build("mlp", CONFIG, accelerator), ct.adam(1.0, eps=0.0))
    before = state.snapshot().params
    ones = {name: np.full(shape, 0.5, np.float32) for name, shape in state.parameter_shapes.items()}
    state.apply_gradients(state.to_gradients(ones))
    after = state.snapshot().params
    updates = {name: before[name] - after[name] for name in after}
    assert_close(updates, {name: np.ones(values.shape) for name, values in updates.items()}, "update", "float32")
