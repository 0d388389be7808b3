"""Blocks as stages of a pipeline: what a device holds and sends, and that the numbers are those of one device."""

from pathlib import Path

import numpy as np
import pytest
from parity_tests import layouts, starting

import crosstrain as ct

WORKER = Path(__file__).parent / "pipeline_worker.py"
STAGES, MICRO_BATCHES, FLOAT = 4, 8, 4
ACTIVATIONS = 16 * 16 * 64 * FLOAT
"""Bytes of the residual stream of the whole batch."""


def _run(folder: Path, what: str, processes: int = 1) -> list[dict[str, np.ndarray]]:
    starting.run(*starting.one_by_one(processes, WORKER, what, folder), timeout_s=600)
    return [layouts.read(folder, index) for index in range(processes)]


def part(results: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}/"): each for key, each in results.items() if key.startswith(f"{name}/")}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return part(_run(tmp_path_factory.mktemp("pipeline"), "programs")[0], "programs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return _run(tmp_path_factory.mktemp("pipeline"), "trained")[0]


def test_a_device_holds_its_share_of_the_blocks(facts: dict) -> None:
    """In the compiled program's arguments, with both moments of Adam, the batch and a few counters and rates."""
    held = facts["all"] - facts["blocks"] + facts["blocks"] / STAGES
    assert facts["local"] == held
    assert 3 * held * FLOAT <= facts["state"] <= 3 * held * FLOAT + 2 * 16 * 16 * FLOAT + 256


def test_parameters_are_exchanged_once_and_never_gathered(facts: dict) -> None:
    """The parts of all blocks for one's own whole ones, and back for gradients; and activations at both ends."""
    assert facts["all-gather/bytes"] == 0
    assert facts["all-to-all/counts"].tolist() == [1]
    assert facts["all-to-all/bytes"] == 2 * facts["blocks"] / STAGES * FLOAT + 4 * ACTIVATIONS


def test_activations_travel_once_per_tick(facts: dict) -> None:
    ticks = MICRO_BATCHES + STAGES - 1
    assert facts["collective-permute/counts"].tolist() == [ticks]
    assert facts["collective-permute/bytes"] == 2 * ticks * ACTIVATIONS / MICRO_BATCHES


@pytest.mark.parametrize("kind", ["all-gather", "all-to-all", "collective-permute", "all-reduce"])
def test_the_formula_says_what_the_program_sends(facts: dict, kind: str) -> None:
    """But for the loss and its weight, which are added up with the gradients."""
    assert 0 <= facts[f"{kind}/bytes"] - facts[f"{kind}/formula"] <= 64 * (kind == "all-reduce")


def test_gradients_of_what_all_stages_hold_are_added_up(facts: dict) -> None:
    outside = (facts["all"] - facts["blocks"]) * FLOAT
    assert outside <= facts["all-reduce/bytes"] <= outside + 64
    assert facts["all-reduce/axes"].tolist() == ["pipeline"]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_training_is_that_of_one_device(trained: dict, micro_batches: int) -> None:
    """Fewer micro-batches than stages, and a number that stages do not divide; segments, dropout, padding."""
    assert layouts.worst(part(trained, f"pipeline/{micro_batches}"), part(trained, f"alone/{micro_batches}")) <= 1e-12


@pytest.mark.slow
def test_training_in_bfloat16(trained: dict) -> None:
    found, expected = part(trained, "pipeline/2"), part(trained, "alone/2")
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-3)
    np.testing.assert_allclose(found["grad_norm"], expected["grad_norm"], rtol=1e-2)


@pytest.mark.slow
def test_stages_span_processes(trained: dict, tmp_path: Path) -> None:
    for results in _run(tmp_path, "trained", 2):
        assert layouts.worst(part(results, "pipeline/3"), part(trained, "pipeline/3")) <= 1e-12


def test_sequences_are_not_split_beside_a_pipeline() -> None:
    with pytest.raises(ct.ConfigError, match="one of context and pipeline must be 1"):
        ct.meshes.fit_mesh(ct.MeshSpec(context=2, pipeline=2), 4, "jax", ("data", "context", "pipeline"))
