"""The static comparison names the eps and the groups of norm layers that differ, and how schedules do."""

import dataclasses
import functools
import importlib
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.parity.side import Live, Side
from crosstrain.parity.static import compare_static
from parity_tests.mutations.planting import Shifted


def batches(step: int) -> dict[str, np.ndarray]:
    return {"x": np.full((2, 8), float(step))}


def side(backend: str, eps: dict[str, float], groups: int = 4) -> Live:
    norms = importlib.import_module(f"parity_tests.conformance.norms_{backend}").Norms

    def model(accelerator: ct.Accelerator) -> Any:
        return norms(eps, groups)

    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.mean(model(batch["x"]))

    return Side(backend=backend, model=model, loss_fn=loss_fn, optimizer=ct.sgd(0.1), batches=batches).open("fp64")


@functools.cache
def reference() -> Live:
    return side("jax", {"eps": 1e-4})


def differences(a: Live, b: Live) -> dict[str, str]:
    return {finding.where: finding.cause for finding in compare_static(a, b, steps=4)}


def test_equal_settings_give_no_finding() -> None:
    assert differences(reference(), side("torch", {"eps": 1e-4})) == {}


def test_defaults_of_flax_and_torch_differ_and_those_of_crosstrain_do_not() -> None:
    found = differences(side("torch", {}), side("jax", {}))
    eps = {f"native.{kind}.eps": "1e-05 against 1e-06" for kind in ("layer", "group", "instance")}
    assert found == {**eps, "native.rms.eps": "machine against 1e-06"}


@pytest.mark.parametrize("path", ["own.layer", "own.group", "native.layer", "native.group", "native.instance"])
def test_another_eps_is_named(path: str) -> None:
    other = side("torch", {"eps": 1e-4})
    other.state.model.get_submodule(path).eps = 1e-6
    assert differences(reference(), other) == {f"{path}.eps": "0.0001 against 1e-06"}


def test_other_groups_are_named() -> None:
    found = differences(reference(), side("torch", {"eps": 1e-4}, groups=2))
    assert found == {"own.group.groups": "4 against 2", "native.group.groups": "4 against 2"}


def test_running_statistics_of_an_instance_norm_are_named() -> None:
    other = side("torch", {"eps": 1e-4})
    other.state.model.get_submodule("native.instance").track_running_stats = True
    assert differences(reference(), other) == {"native.instance.running_statistics": "False against True"}


@pytest.mark.parametrize(
    ("schedule", "other", "steps", "cause"),
    [
        (ct.cosine(1e-3, 20), Shifted(inner=ct.cosine(1e-3, 20), by=1), 20, "the same table, one step apart"),
        (ct.cosine(1e-9, 20), Shifted(inner=ct.cosine(1e-9, 20), by=1), 20, "the same table, one step apart"),
        (ct.constant(1e-5), ct.constant(1.0005e-5), 20, "1e-05 against 1.0005e-05"),
        (ct.constant(1e-3), ct.constant(2e-3), 1, "0.001 against 0.002"),
    ],
)
def test_a_schedule_is_late_only_where_it_is_the_same(schedule: Any, other: Any, steps: int, cause: str) -> None:
    a, b = (Live(dataclasses.replace(reference().side, optimizer=ct.sgd(each)), "fp64") for each in (schedule, other))
    found = [each.cause for each in compare_static(a, b, steps=steps) if each.channel == "schedule"]
    assert found == [cause]
