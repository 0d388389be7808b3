"""The same losses on one device, on eight virtual devices, and on two processes with two devices each."""

from pathlib import Path

import numpy as np
import pytest
from parity_tests import layouts, refusals, starting

WORKER = Path(__file__).parent / "worker.py"
LAYOUTS = {"one device": (1, 1), "eight devices": (8, 1), "two processes": (2, 2)}
BOUND = 1e-12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, np.ndarray]]]:
    """Layout -> results of each of its processes."""
    return {name: _run(tmp_path_factory.mktemp("layout"), *layout) for name, layout in LAYOUTS.items()}


def _run(folder: Path, devices: int, processes: int) -> list[dict[str, np.ndarray]]:
    starting.run(*starting.one_by_one(processes, WORKER, folder, devices))
    return [layouts.read(folder, index) for index in range(processes)]


def case(results: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in results.items() if name.startswith(f"{kind}/")}


@pytest.mark.parametrize("layout", ["eight devices", "two processes"])
@pytest.mark.parametrize("kind", layouts.KINDS)
def test_layouts_agree_with_one_device(runs: dict, layout: str, kind: str) -> None:
    """Losses, norms, metrics, weights, running statistics, evaluation, and predictions in their order."""
    for results in runs[layout]:
        assert layouts.worst(case(results, kind), case(runs["one device"][0], kind)) <= BOUND


@pytest.mark.parametrize("layout", ["eight devices", "two processes"])
def test_random_keys_of_flax_are_those_of_one_device(runs: dict, layout: str) -> None:
    """Under `nnx.Dropout`, before and after its keys have gone through a snapshot."""
    (alone,) = case(runs["one device"][0], "dropping").values()
    np.testing.assert_array_equal(*alone.reshape(3, -1)[1:])
    for results in runs[layout]:
        assert layouts.worst(case(results, "dropping"), case(runs["one device"][0], "dropping")) <= BOUND


@pytest.mark.parametrize(
    ("layout", "devices", "shard"),
    [
        ("one device", [1, 1], [16, 8, 8, 1]),
        ("eight devices", [8, 8], [2, 8, 8, 1]),
        ("two processes", [4, 2], [4, 8, 8, 1]),
    ],
)
def test_batches_are_split_and_weights_are_not(runs: dict, layout: str, devices: list, shard: list) -> None:
    for results in runs[layout]:
        assert results["facts/devices"].tolist() == devices
        assert results["facts/global batch"].tolist() == [16, 8, 8, 1]
        assert results["facts/shard of the batch"].tolist() == shard
        assert results["facts/weights are replicated"]
        assert results["facts/donated"]
        assert results["facts/augmented alike"]
        assert results["facts/stacked alike"]
        assert results["facts/finite"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_compilation_for_all_batches_epochs_seeds_rates_and_calls_of_fit(runs: dict, layout: str) -> None:
    for results in runs[layout]:
        assert results["facts/compilations"].tolist() == [1, 1]


@pytest.mark.parametrize(("layout", "devices"), [("eight devices", 8), ("two processes", 4)])
def test_what_only_several_devices_make_wrong_is_refused(runs: dict, layout: str, devices: int) -> None:
    for results in runs[layout]:
        refusals.check(results, devices)


def test_a_process_may_hold_parts_of_a_batch_that_are_no_neighbours(runs: dict) -> None:
    """Losses, predictions and what is gathered are in the order of the global batch."""
    alone = case(runs["one device"][0], "mlp")
    for index, results in enumerate(runs["two processes"]):
        assert results["apart/starts"].tolist() == [4 * index, 8 + 4 * index]
        assert results["apart/gathered"].tolist() == results["apart/labels"].tolist()
        found = {name: results[name.replace("mlp/", "apart/")] for name in alone}
        assert layouts.worst(found, alone) <= BOUND
