"""The same losses in one process and in two that torchrun starts, with DDP over gloo."""

from pathlib import Path

import numpy as np
import pytest
from parity_tests import layouts, refusals, starting

WORKER = Path(__file__).parent / "worker.py"
BOUND = 1e-12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, np.ndarray]]]:
    """Number of processes -> results of each."""
    return {processes: _run(tmp_path_factory.mktemp("layout"), processes) for processes in (1, 2)}


def _run(folder: Path, processes: int) -> list[dict[str, np.ndarray]]:
    starting.run(starting.torchrun(processes, WORKER, folder))
    return [layouts.read(folder, index) for index in range(processes)]


@pytest.mark.parametrize("kind", [*layouts.KINDS, "native", "partly"])
def test_two_processes_agree_with_one(runs: dict, kind: str) -> None:
    """Losses, norms, metrics, weights, running statistics, evaluation, and predictions in their order."""

    def case(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values for name, values in results.items() if name.startswith(f"{kind}/")}

    for results in runs[2]:
        assert layouts.worst(case(results), case(runs[1][0])) <= BOUND


def test_each_process_loads_its_part_and_ddp_reduces(runs: dict) -> None:
    assert runs[1][0]["facts/distributed"] == "Objective"
    assert runs[1][0]["facts/local batch"].tolist() == [16, 8, 8, 1]
    for index, results in enumerate(runs[2]):
        assert results["facts/processes"].tolist() == [index, 2]
        assert results["facts/local batch"].tolist() == [8, 8, 8, 1]
        assert results["facts/distributed"] == "DistributedDataParallel"


def test_what_only_several_processes_make_wrong_is_refused(runs: dict) -> None:
    for results in runs[2]:
        refusals.check(results, 2)


def test_native_pieces(runs: dict) -> None:
    """Convolutions in channels_last, fused optimizers, bfloat16 training stays finite."""
    for results in (*runs[1], *runs[2]):
        assert results["facts/channels last"]
        assert results["facts/fused"]
        assert results["facts/finite"]


def test_a_loss_that_forgets_a_layer_is_refused_where_it_would_go_unreduced(runs: dict) -> None:
    assert runs[1][0]["forgotten"] == "nothing was refused"
    for results in runs[2]:
        assert str(results["forgotten"]).startswith("LossError: a loss must reach the same parameters in every batch")
        assert "got 2 of 4" in str(results["forgotten"])
