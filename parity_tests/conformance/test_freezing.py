"""Freezing: nothing of a frozen parameter changes, on both engines alike, and nothing is compiled at every step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.optim import LayerGroup

from .tasks import MLP, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]

BODY = r"^layers\.0"
USUAL = [
    ct.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ct.adamw(1e-2, weight_decay=0.1, groups=(ct.undecayed(),)),
]
OTHERS = [
    ct.nadam(1e-2, weight_decay=0.1),
    ct.radam(1e-2, weight_decay=0.1),
    ct.lamb(1e-2, weight_decay=0.1),
    ct.lion(1e-3, weight_decay=0.1),
    ct.adafactor(1e-2, weight_decay=0.1),
    ct.muon(0.02, weight_decay=0.1),
]
optimizers = pytest.mark.parametrize(
    "optimizer",
    [*USUAL, *(pytest.param(spec, marks=pytest.mark.slow) for spec in OTHERS)],
    ids=lambda spec: type(spec).__name__,
)


def rows(start: int, count: int = 16) -> dict[str, np.ndarray]:
    return {name: values[start : start + count] for name, values in images(200).items()}


def train(accelerator: ct.Accelerator, state: ct.TrainState, steps: int) -> list[float]:
    step = accelerator.train_step(loss_fn, grad_norm=True)
    return [step(state, rows(7 * state.step))["loss"] for _ in range(steps)]


def body(snapshot: ct.Snapshot) -> dict[str, np.ndarray]:
    sections = {name: arrays for name, arrays in snapshot.sections().items() if name != "native"}
    return {
        f"{section}/{name}": values
        for section, arrays in sections.items()
        for name, values in arrays.items()
        if name.startswith("layers.0")
    }


@optimizers
def test_nothing_of_a_frozen_parameter_changes(make: Make, optimizer: Any) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP, optimizer, average=ct.ema(0.5))
    train(accelerator, state, 2)
    before, averages = state.snapshot(), dict(state.snapshot().averages)
    state.freeze(BODY)
    assert set(state.frozen) == {"layers.0.weight", "layers.0.bias"}
    train(accelerator, state, 3)
    after = state.snapshot()
    old, new = body(before), body(after)
    kept = [name for name in old if not name.startswith("averages")]
    assert len(kept) > 1
    assert all((old[name] == new[name]).all() for name in kept)
    assert averages.keys() == after.averages.keys()
    moved = {name for name, values in after.params.items() if (values != before.params[name]).any()}
    assert moved == {name for name in before.params if not name.startswith("layers.0")}


@optimizers
def test_freezing_in_float64_is_the_same_on_both_engines(optimizer: Any, pytestconfig: pytest.Config) -> None:
    engines = pytestconfig.getoption("--backends").split(",")

    def run(backend: str) -> tuple[list[float], ct.Snapshot]:
        accelerator = ct.Accelerator(backend, precision="fp64")
        spans = LayerGroup(match=BODY, frozen=((2, 6), (8, 9)), rate_scale=0.5)
        state = prepared(accelerator, MLP, dataclasses.replace(optimizer, layers=(spans,)))
        return train(accelerator, state, 12), state.snapshot()

    (losses, first), *others = [run(backend) for backend in engines]
    for more, other in others:
        assert more == pytest.approx(losses, rel=1e-10)
        assert worst(dict(first.params), dict(other.params)) <= 1e-10
        for slot, moments in first.moments.items():
            assert worst(dict(moments), dict(other.moments[slot])) <= 1e-10


@optimizers
def test_a_parameter_that_was_frozen_from_the_start_begins_as_a_new_one(make: Make, optimizer: Any) -> None:
    """Its update count starts when it does, so that the correction of young moments is right."""
    accelerator = make()
    late = dataclasses.replace(optimizer, layers=(LayerGroup(match=BODY, frozen=((0, 3),)),))
    state = prepared(accelerator, MLP, late)
    train(accelerator, state, 3)
    fresh = prepared(accelerator, MLP, optimizer)
    fresh.load(dataclasses.replace(state.snapshot(), moments={}, step=0))
    step = accelerator.train_step(loss_fn)
    step(state, rows(50))
    step(fresh, rows(50))
    found, expected = body(state.snapshot()), body(fresh.snapshot())
    assert worst(found, expected) <= 1e-12


@optimizers
def test_a_snapshot_in_the_middle_goes_on_with_its_own_counts(make: Make, optimizer: Any) -> None:
    accelerator = make()
    spec = dataclasses.replace(optimizer, layers=(LayerGroup(match=BODY, frozen=((1, 3),)),))
    state, other = prepared(accelerator, MLP, spec), prepared(accelerator, MLP, spec)
    train(accelerator, state, 4)
    other.load(state.snapshot())
    assert train(accelerator, other, 4) == pytest.approx(train(accelerator, state, 4), rel=1e-13)


def test_freezing_compiles_once_for_each_frozen_set(backend: str, make: Make) -> None:
    if backend != "jax":
        pytest.skip("torch runs eagerly")
    traced = []

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        traced.append(1)
        return loss_fn(model, batch, ops)

    accelerator = make()
    state, step = prepared(accelerator, MLP, ct.adamw(1e-2)), accelerator.train_step(loss)
    for action in (lambda: None, lambda: state.freeze(BODY), state.unfreeze, lambda: state.freeze(BODY)):
        action()
        for _ in range(3):
            step(state, rows(0))
    # all learn; the body is frozen; both again with the body in a group of its own
    assert len(traced) <= 3
    state.change_optimizer(dataclasses.replace(state.optimizer, learning_rate=ct.cosine(1e-3, 100)))
    step(state, rows(0))
    assert len(traced) <= 3


def test_frozen_gradients_do_not_count_in_the_norm(make: Make) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP)
    step = accelerator.value_and_grad(loss_fn)
    _, gradients = step(state, rows(0))
    whole = gradients.to_host()
    state.freeze(BODY)
    assert accelerator.train_step(loss_fn, grad_norm=True)(state, rows(0))["grad_norm"] == pytest.approx(
        np.sqrt(sum(np.sum(g**2) for name, g in whole.items() if not name.startswith("layers.0"))), rel=1e-12
    )


def test_gradients_of_frozen_parameters_go_to_the_host_and_back(make: Make) -> None:
    """They are 0, and do not count in the norm where they are not; a parameter that thaws before the update decays."""
    accelerator = make()
    state = prepared(accelerator, MLP, ct.sgd(0.1, momentum=0.9, weight_decay=0.1))
    state.freeze(BODY)
    _, gradients = accelerator.value_and_grad(loss_fn)(state, rows(0))
    host = gradients.to_host()
    assert host.keys() == state.parameter_shapes.keys()
    assert all(host[name].any() != name.startswith("layers.0") for name in host)
    given = host | {name: np.full(shape, 7.0) for name, shape in state.parameter_shapes.items() if name in state.frozen}
    before = dict(state.snapshot().params)
    state.apply_gradients(state.to_gradients(given), clip_norm=0.01)
    scale = 0.01 / gradients.global_norm()
    expected = {
        name: p if name in state.frozen else p - 0.1 * (scale * host[name] + 0.1 * p) for name, p in before.items()
    }
    assert worst(dict(state.snapshot().params), expected) <= 1e-12
    _, gradients = accelerator.value_and_grad(loss_fn)(state, rows(0))
    state.unfreeze()
    state.apply_gradients(gradients)
    still = {name: 0.99 * p for name, p in before.items() if name.startswith("layers.0")}
    after = state.snapshot().params
    assert worst({name: after[name] for name in still}, still) <= 1e-12


def test_freezing_nothing_and_freezing_all_are_refused(make: Make) -> None:
    state = prepared(make(), MLP)
    with pytest.raises(ct.ConfigError, match=r"match must be found in a parameter's name, got match='\^body'"):
        state.freeze("^body")
    with pytest.raises(ct.ConfigError, match="at least one parameter must learn"):
        state.freeze()
    assert state.frozen == ()
    with pytest.raises(ct.ConfigError, match="optimizer must be the present one"):
        state.change_optimizer(ct.adamw(1e-3))
    with pytest.raises(ct.ConfigError, match=r"spans \(start, end\)"):
        LayerGroup(frozen=((5, 3),))
