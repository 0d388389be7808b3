"""Norms, crosstrain's and the framework's own: their settings have one form, and their parameters do not decay."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.optim import undecayed
from crosstrain.probe import ModuleSettings

EPS, GROUPS = 1e-4, 4
PARAMETERS = {
    **{f"own.{kind}": ("weight", "bias") for kind in ("layer", "group", "batch")},
    **{f"native.{kind}": ("weight", "bias") for kind in ("layer", "group", "batch", "instance")},
    "own.rms": ("weight",),
    "native.rms": ("weight",),
}


def model(backend: str) -> Any:
    return importlib.import_module(f"parity_tests.conformance.norms_{backend}").Norms({"eps": EPS}, GROUPS)


def settings(eps: float) -> dict[str, ModuleSettings]:
    extra = {
        "group": {"groups": GROUPS},
        "batch": {"momentum": 0.1},
        "instance": {"running_statistics": False},
    }
    kinds = {path: path.partition(".")[2] for path in PARAMETERS}
    return {
        path: ModuleSettings(kind=f"{kind}_norm", values={"eps": eps} | extra.get(kind, {}))
        for path, kind in kinds.items()
    }


def norms_of(accelerator: ct.Accelerator, native: Any) -> dict[str, ModuleSettings]:
    found = accelerator.module_settings(native)
    assert found.pop("head").kind == "linear"
    return found


def test_settings_of_norms_are_known_and_can_be_changed(backend: str, make: Callable[..., ct.Accelerator]) -> None:
    accelerator, native = make(), model(backend)
    assert norms_of(accelerator, native) == settings(EPS)
    for path in PARAMETERS:
        assert accelerator.change_setting(native, path, "eps", 1e-3)
    assert norms_of(accelerator, native) == settings(1e-3)
    assert not accelerator.change_setting(native, "own.group", "groups", 2)


def test_parameters_of_norms_do_not_decay(backend: str, make: Callable[..., ct.Accelerator]) -> None:
    accelerator = make()
    state = accelerator.prepare(model(backend), ct.sgd(0.5, weight_decay=0.5, groups=(undecayed(),)))
    norms = {f"{path}.{name}" for path, names in PARAMETERS.items() for name in names}
    assert set(state.parameter_roles) == norms | {"head.weight", "head.bias"}
    assert {name for name, role in state.parameter_roles.items() if role == "norm"} == norms

    before = state.snapshot().params
    state.apply_gradients(state.to_gradients({name: np.zeros(shape) for name, shape in state.parameter_shapes.items()}))
    after = state.snapshot().params
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"head.weight"}
    np.testing.assert_allclose(after["head.weight"], 0.75 * before["head.weight"], rtol=1e-15)
