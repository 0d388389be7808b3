"""Every layout of a mesh trains as one device does, over whole runs and with every optimizer.

`test_scenarios.py` has torch's quick half.
"""

from pathlib import Path

import pytest

from parity_tests.meshes import cases, launching

ENGINES = ("jax", "torch")


def _runs(backend: str, devices: int, optimizers: tuple[str, ...], steps: int) -> list[str]:
    return [
        launching.run_name(layout, case, optimizer, steps)
        for layout in cases.LAYOUTS.values()
        for case in cases.CASES.values()
        for optimizer in optimizers
        if layout.devices == devices and cases.runs(layout, case, backend)
    ]


def _check(backend: str, folder: Path, devices: int, runs: list[str]) -> None:
    for name in ("one", "many"):
        (folder / name).mkdir()
    alone = sorted({launching.on_one(run) for run in runs})
    expected = launching.launch(backend, folder / "one", 1, alone)[0]
    found = launching.launch(backend, folder / "many", devices, runs)
    worst = {
        f"{run} on process {index}": cases.worst(results[run], expected[launching.on_one(run)])
        for index, results in enumerate(found)
        for run in runs
    }
    wrong = {name: each for name, each in worst.items() if not each[0] <= cases.BOUND}
    assert len(worst) == len(found) * len(runs) > 0
    assert not wrong


def test_a_few_steps_on_jax(tmp_path: Path) -> None:
    """One model, and experts where they are split; compiling the others takes minutes."""
    quick = [run for run in _runs("jax", 2, ("adamw",), 6) if ":gpt:" in run or run.startswith("expert2:gpt-experts:")]
    _check("jax", tmp_path, 2, quick)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", cases.TRAINED)
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("backend", ENGINES)
def test_whole_runs(backend: str, devices: int, optimizer: str, tmp_path: Path) -> None:
    _check(backend, tmp_path, devices, _runs(backend, devices, (optimizer,), cases.STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("backend", ENGINES)
def test_every_optimizer(backend: str, devices: int, tmp_path: Path) -> None:
    others = tuple(name for name in cases.OPTIMIZERS if name not in (*cases.TRAINED, cases.FROZEN))
    _check(backend, tmp_path, devices, _runs(backend, devices, others, 3))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("backend", ENGINES)
def test_layers_that_stand_still(backend: str, devices: int, tmp_path: Path) -> None:
    """Parts of every model are frozen for two of six steps, at times that overlap."""
    _check(backend, tmp_path, devices, _runs(backend, devices, (cases.FROZEN,), 6))
