"""States on a mesh: each device holds what the plan says, and what one layout saves another goes on from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity_tests import layouts
from parity_tests.meshes import cases, launching, scenarios

ENGINES = ("jax", "torch")
Found = dict[str, dict[str, np.ndarray]]


def _launch(folder: Path, backend: str, devices: int, sources: str, names: list[str]) -> list[Found]:
    """Scenario and layout -> what came out, for every process."""
    own = folder / f"{devices}-{sources}"
    own.mkdir()
    processes = devices if backend == "torch" else 1
    launching.start("scenarios", [backend, str(own), str(devices), str(folder), sources, *names], processes, 1200)
    return [_by_scenario(layouts.read(own, index)) for index in range(processes)]


def _by_scenario(results: dict[str, np.ndarray]) -> Found:
    found: Found = {}
    for key, values in results.items():
        scenario, layout, name = key.split("|")
        found.setdefault(f"{scenario}|{layout}", {})[name] = values
    return found


Runs = tuple[Found, list[Found]]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((each, devices), marks=() if (each, devices) == ("torch", 2) else pytest.mark.slow)
        for each in ENGINES
        for devices in (2, 4)
    ],
    ids=lambda each: f"{each[0]}, {each[1]} devices",
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One device, and every process of the others."""
    backend, devices = request.param
    folder = tmp_path_factory.mktemp("scenarios")
    names = [
        layout.name
        for layout in cases.LAYOUTS.values()
        if layout.devices == devices and scenarios.cases_of(layout, backend)
    ]
    alone = _launch(folder, backend, 1, "", ["one"])[0]
    return alone, _launch(folder, backend, devices, ",".join(["one", *names]), names)


def _compare(runs: Runs, scenario: str, expected: str) -> None:
    alone, processes = runs
    compared = 0
    for found in processes:
        for name, results in found.items():
            if name.partition("|")[0].startswith(scenario):
                known = {key: values for key, values in alone[expected].items() if key in results}
                worst = cases.worst(results, known)
                assert worst[0] <= cases.BOUND, (name, worst)
                compared += 1
    assert compared


@pytest.mark.parametrize("model", ["", "experts: "])
@pytest.mark.parametrize("kind", ["native", "portable"])
def test_another_layout_goes_on(runs: Runs, kind: str, model: str) -> None:
    """From what one device and every layout saved, as if nothing had happened."""
    _compare(runs, f"{model}save", f"{model}save|one")
    _compare(runs, f"{model}{kind}", f"{model}save|one")


def test_the_first_steps_of_every_model(runs: Runs) -> None:
    """Losses, norms, weights, moments, averages, evaluation and predictions."""
    _compare(runs, "trained", "trained|one")
    assert {key.partition("/")[0] for key in runs[0]["trained|one"]} == set(cases.CASES)


@pytest.mark.parametrize("model", ["", "experts: "])
def test_gradients_by_hand(runs: Runs, model: str) -> None:
    _compare(runs, f"{model}by hand", f"{model}by hand|one")


def test_two_models_against_each_other(runs: Runs) -> None:
    """States that stand still while another learns through them."""
    _compare(runs, "adversarial", "adversarial|one")


def test_each_device_holds_what_the_plan_says(runs: Runs) -> None:
    alone, processes = runs
    for found in processes:
        for name, shapes in found.items():
            if name.startswith("held"):
                wrong = {key: pair.tolist() for key, pair in shapes.items() if not np.array_equal(*pair)}
                assert not wrong
                whole: Any = alone["held|one"]
                smaller = [key for key, pair in shapes.items() if not np.array_equal(pair[0], whole[key][0])]
                layout = cases.LAYOUTS[name.partition("|")[2]]
                assert len(smaller) > len(shapes) / 3 or layout.fsdp == layout.tensor == 1


def test_an_estimate_is_what_each_device_holds(runs: Runs) -> None:
    """To the byte: weights, moments, averages, buffers and counts of updates."""
    compared = 0
    for found in (runs[0], *runs[1]):
        for name, sizes in found.items():
            if name.startswith("estimated"):
                assert not {key: pair.tolist() for key, pair in sizes.items() if pair[0] != pair[1]}, name
                compared += len(sizes)
    assert compared
