"""The optimizers under test as a table, and what the tests put into them: parameters, gradients, a state to update.

The parameters are vectors, matrices (wide, tall, square), a convolution kernel, an attention projection, an embedding,
a norm and a stack of experts.
"""

import dataclasses
import importlib
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import crosstrain as ct
from parity_tests.reference import adafactor, adam_variants, adaptive, lion, muon, optimizers
from parity_tests.tolerances import assert_close

from .common import Arrays

UPDATES = 100
SIZES = (3, 2, 4)

# A few, so that tests share what is compiled for them.
sizes_of_parameters = st.sampled_from([SIZES, (1, 1, 1), (5, 1, 2), (2, 5, 3)])
# Not 0: m / |g| multiplies the rounding of a g that is nearly 0.
betas2 = st.sampled_from([0.8, 0.9, 0.99, 0.999, 0.9999])
epsilons = st.sampled_from([1e-8, 1e-6, 1e-3])


class Case(NamedTuple):
    """One optimizer.

    Attributes:
        make: (rate, momentum, **numbers, weight_decay, groups) -> spec.
        reference: (p, grads, rates, momenta, **numbers, weight_decay) -> parameter and moments.
        numbers: what `test_updates` draws.
        usual: what the other tests take.
        momentum: a usual one; None where the optimizer has none.
    """

    make: Callable[..., Any]
    reference: Callable[..., optimizers.Result]
    numbers: Mapping[str, st.SearchStrategy[Any]]
    usual: Mapping[str, Any]
    momentum: float | None = 0.9


def with_betas(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rate, momentum, *, beta2, **rest: make(rate, betas=(momentum, beta2), **rest)


def without_momentum(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rate, _, **rest: make(rate, **rest)


def plain_sgd(p: Any, grads: Any, rates: Any, momenta: Any, **numbers: Any) -> optimizers.Result:
    return optimizers.sgd(p, grads, rates, momentum=momenta, **numbers)


def plain_adam(decoupled: bool) -> Callable[..., optimizers.Result]:
    return lambda p, grads, rates, momenta, **numbers: optimizers.adam(
        p, grads, rates, beta1=momenta, decoupled=decoupled, **numbers
    )


ADAM = {"beta2": 0.999, "eps": 1e-8}
RMSPROP = {"alpha": st.sampled_from([0.0, 0.9, 0.99]), "eps": epsilons}
CASES = {
    "sgd": Case(
        lambda rate, m, **rest: ct.sgd(rate, momentum=m, **rest),
        plain_sgd,
        {"nesterov": st.booleans()},
        {"nesterov": True},
    ),
    "adam": Case(with_betas(ct.adam), plain_adam(decoupled=False), {"beta2": betas2, "eps": epsilons}, ADAM),
    "adamw": Case(with_betas(ct.adamw), plain_adam(decoupled=True), {"beta2": betas2, "eps": epsilons}, ADAM),
    "nadam": Case(
        with_betas(ct.nadam),
        adam_variants.nadam,
        {"beta2": betas2, "eps": epsilons, "momentum_decay": st.sampled_from([0.0, 4e-3, 1.0])},
        ADAM | {"momentum_decay": 4e-3},
    ),
    "radam": Case(with_betas(ct.radam), adam_variants.radam, {"beta2": betas2, "eps": epsilons}, ADAM),
    "rmsprop": Case(
        lambda rate, m, **rest: ct.rmsprop(rate, momentum=m, **rest),
        adaptive.rmsprop,
        RMSPROP,
        {"alpha": 0.99, "eps": 1e-8},
    ),
    "rmsprop without momentum": Case(
        without_momentum(ct.rmsprop), adaptive.rmsprop, RMSPROP, {"alpha": 0.99, "eps": 1e-8}, momentum=None
    ),
    "adagrad": Case(without_momentum(ct.adagrad), adaptive.adagrad, {"eps": epsilons}, {"eps": 1e-10}, momentum=None),
    "lion": Case(with_betas(ct.lion), lion.lion, {"beta2": betas2}, {"beta2": 0.99}),
    "lamb": Case(
        with_betas(ct.lamb), adam_variants.lamb, {"beta2": betas2, "eps": epsilons}, {"beta2": 0.999, "eps": 1e-6}
    ),
    "adafactor": Case(
        without_momentum(ct.adafactor),
        adafactor.adafactor,
        {
            "eps": st.sampled_from([(1e-16, 1e-3), (1e-8, 1.0)]),
            "clip_threshold": st.sampled_from([1.0, 2.0]),
            "beta2_decay": st.sampled_from([-0.8, -0.5, 0.0]),
        },
        {"eps": (1e-16, 1e-3), "clip_threshold": 1.0, "beta2_decay": -0.8},
        momentum=None,
    ),
    "muon": Case(
        lambda rate, m, **rest: ct.muon(rate, momentum=m, **rest),
        muon.muon,
        {
            "nesterov": st.booleans(),
            "eps": st.sampled_from([1e-7, 1e-3]),
            "fallback_scale": st.sampled_from([0.015, 1.0]),
        },
        {"nesterov": True, "eps": 1e-7, "fallback_scale": 0.015},
    ),
}
WITH_MOMENTUM = [name for name, case in CASES.items() if case.momentum is not None]


class Outcome(NamedTuple):
    """Weights and moments (by slot) after the updates."""

    params: Arrays
    moments: dict[str, Arrays]


class Problem(NamedTuple):
    """Where the parameters start, and their gradients at every update, by canonical name."""

    sizes: tuple[int, int, int]
    start: Arrays
    grads: dict[str, list[np.ndarray]]


def role_of(name: str) -> str:
    layer, kind = name.split(".")
    return {"norm": "norm", "embed": "embedding"}.get(layer, kind)


def problem(sizes: tuple[int, int, int] = SIZES) -> Problem:
    """Gradients change in size and sign and are zero at times; biases start at zero."""
    a, b, c = sizes
    shapes = {
        "wide.weight": (a, a + b),
        "wide.bias": (a,),
        "tall.weight": (a + b, a),
        "square.weight": (a, a),
        "conv.weight": (a, b, 2, c),
        "conv.bias": (a,),
        "heads.weight": (2 * c, a),
        "heads.bias": (2 * c,),
        "embed.weight": (b, c),
        "norm.weight": (c,),
        "stack.experts": (c, a, b),
    }
    start, grads = {}, {}
    for name, shape in shapes.items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        start[name] = random.normal(size=shape) * (not name.endswith("bias"))
        silent = {3, 50} | ({0, 1} if name in ("square.weight", "norm.weight") else set())
        grads[name] = [
            random.normal(size=shape) * 10.0 ** random.integers(-4, 2) * (i not in silent) for i in range(UPDATES)
        ]
    return Problem(sizes, start, grads)


@cache
def accelerator(backend: str, precision: Any) -> ct.Accelerator:
    """Shared, so that states of one structure share their compiled update."""
    return ct.Accelerator(backend, precision=precision)


def prepared(backend: str, where: Problem, spec: Any, precision: Any = "fp64") -> ct.TrainState:
    native = importlib.import_module(f".optimized_{backend}", __package__)
    state = accelerator(backend, precision).prepare(native.build(*where.sizes), spec)
    state.load(dataclasses.replace(state.snapshot(), params=where.start))
    return state


def advance(state: ct.TrainState, where: Problem, until: int = UPDATES) -> Outcome:
    while state.step < until:
        now = {name: grads[state.step] for name, grads in where.grads.items()}
        state.apply_gradients(state.to_gradients(now))
    snapshot = state.snapshot()
    return Outcome(dict(snapshot.params), {slot: dict(values) for slot, values in snapshot.moments.items()})


def expected(name: str, where: Problem, rates: Any, momenta: Any, numbers: Any, of: Any) -> Outcome:
    """`of(parameter)` is its rate scale and weight decay; there are as many updates as rates."""
    params, moments = {}, {}
    for each, start in where.start.items():
        scale, decay = of(each)
        own = dict(numbers) | ({"role": role_of(each)} if name == "muon" else {})
        grads = where.grads[each][: len(rates)]
        params[each], slots = CASES[name].reference(start, grads, rates * scale, momenta, weight_decay=decay, **own)
        for slot, values in slots.items():
            moments.setdefault(slot, {})[each] = values
    return Outcome(params, moments)


def assert_same(found: Outcome, wanted: Outcome) -> None:
    assert_close(found.params, wanted.params, "weights")
    assert found.moments.keys() == wanted.moments.keys()
    for slot, values in wanted.moments.items():
        assert_close(found.moments[slot], values, "moments")


def momenta_of(value: float | None, updates: int = UPDATES) -> Any:
    return None if value is None else np.full(updates, value)


def same_for_all(decay: float) -> Callable[[str], tuple[float, float]]:
    return lambda _: (1.0, decay)
