"""Sequences split over `context`: ring attention is attention, and a sequence may span processes."""

from pathlib import Path

import numpy as np
import pytest
from parity_tests import layouts, starting

WORKER = Path(__file__).parent / "context_worker.py"
BOUNDS = {"float64": 1e-14, "bfloat16": 2e-2}
"""Relative to the largest element; bfloat16 has 8 bits, and a ring rounds other sums than one device does."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """One process with four devices."""
    return _run(tmp_path_factory.mktemp("context"), 1)[0]


def _run(folder: Path, processes: int) -> list[dict[str, np.ndarray]]:
    starting.run(*starting.one_by_one(processes, WORKER, folder))
    return [layouts.read(folder, index) for index in range(processes)]


def part(results: dict[str, np.ndarray], name: str, *without: str) -> dict[str, np.ndarray]:
    found = {key.removeprefix(f"{name}/"): each for key, each in results.items() if key.startswith(f"{name}/")}
    return {key: each for key, each in found.items() if key not in without}


@pytest.mark.parametrize("kind", ["whole", "packed"])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_ring_gives_what_one_device_gives(alone: dict, dtype: str, kind: str) -> None:
    """Outputs, and gradients of queries, keys and values, where two heads share those."""
    facts = ("permutes", "gathers")
    ring, one = (part(alone, f"ring/{devices}/{dtype}/{kind}", *facts) for devices in (4, 1))
    assert set(ring) == {"q", "k", "v", "out"}
    assert layouts.worst(ring, one) <= BOUNDS[dtype]


def test_keys_travel_and_are_never_gathered(alone: dict) -> None:
    for kind in ("whole", "packed"):
        ring = part(alone, f"ring/4/float64/{kind}")
        assert ring["permutes"]
        assert not ring["gathers"]


def test_segments_matter(alone: dict) -> None:
    packed, whole = (part(alone, f"ring/4/float64/{kind}", "permutes", "gathers") for kind in ("packed", "whole"))
    assert layouts.worst(packed, whole) > 0.1


@pytest.mark.parametrize(("layout", "shard"), [("context4", [16, 2]), ("data2-context2", [8, 4])])
def test_training_is_that_of_whole_sequences(alone: dict, layout: str, shard: list[int]) -> None:
    assert part(alone, layout)["shard"].tolist() == shard
    assert layouts.worst(part(alone, layout, "shard"), part(alone, "data4", "shard")) <= 1e-12


@pytest.mark.slow
def test_sequences_span_processes(alone: dict, tmp_path: Path) -> None:
    for results in _run(tmp_path, 2):
        for layout in ("context4", "data2-context2"):
            assert layouts.worst(part(results, layout), part(alone, layout)) <= 1e-12
