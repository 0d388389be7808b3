"""Checkpoints of several processes: handed over between numbers of them, resumed bit for bit, and failing together."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .launching import launch
from .part import hand_over, resume

STEPS = 3
FSDP = {"data": 2, "fsdp": -1}
# Engine, processes, devices of each, mesh.
FOUR_TO_ONE = [
    ("torch", 4, 1, FSDP),
    ("torch", 2, 1, {}),
    ("torch", 1, 1, {}),
    ("jax", 1, 8, FSDP),
    ("torch", 1, 1, {}),
]
BOTH_SPLIT = [("torch", 4, 1, {}), ("jax", 2, 2, {}), ("jax", 1, 8, {}), ("torch", 2, 1, {"data": 1, "fsdp": 2})]


def floats(losses: list[str]) -> np.ndarray:
    return np.array([float.fromhex(each) for each in losses])


@pytest.mark.parametrize(
    "parts", [FOUR_TO_ONE, pytest.param(BOTH_SPLIT, marks=pytest.mark.slow)], ids=["4-2-1", "4-2x2-8-2"]
)
def test_a_run_goes_through_both_engines_and_numbers_of_processes(
    tmp_path: Path, parts: list[tuple[str, int, int, dict[str, int]]]
) -> None:
    whole = hand_over("torch", tmp_path, before=None, after="whole", steps=STEPS * len(parts))
    found: list[str] = []
    for index, (backend, processes, devices, mesh) in enumerate(parts):
        options = {"before": str(index - 1) if index else None, "after": str(index), "steps": STEPS, "mesh": mesh}
        if (backend, processes) == ("torch", 1):
            ranks = [hand_over("torch", tmp_path, **options)]  # type: ignore[arg-type]
        else:
            ranks = launch(backend, "hand_over", tmp_path, processes=processes, devices=devices, **options)
        assert all(losses == ranks[0] for losses in ranks)
        found += ranks[0]
    assert len(set(whole)) == len(whole)
    np.testing.assert_allclose(floats(found), floats(whole), rtol=1e-10)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_two_processes_resume_bit_for_bit(backend: str, tmp_path: Path) -> None:
    """The newest whole checkpoint is the first, once the second is damaged: the main process says so to the others."""
    saved = launch(backend, "save", tmp_path, processes=2)
    assert [each["steps"] for each in saved] == [[4, 8], [4, 8]]
    resumed = launch(backend, "resume", tmp_path, processes=2)
    for each in resumed:
        assert each == {"step": 8, "losses": saved[0]["losses"]}
    if backend == "torch":
        alone = resume(backend, tmp_path)
        np.testing.assert_allclose(floats(alone["losses"]), floats(saved[0]["losses"]), rtol=1e-10)
    largest = max((tmp_path / "run" / "step_00000008").rglob("*"), key=lambda path: path.stat().st_size)
    largest.unlink()
    for each in launch(backend, "resume", tmp_path, processes=2):
        assert each["step"] == 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte and 400 files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=400", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_where_one_process_fails_all_raise_and_go_on(backend: str, disk: Path, tmp_path: Path) -> None:
    results = launch(backend, "fail", tmp_path, processes=2, disk=str(disk))
    for each in results:
        heard = each["heard"]
        assert "must be a place to write to, got: [Errno 20] Not a directory" in heard["save"]
        assert "must be a place to write to, got: [Errno 17] File exists" in heard["export"]
        assert "path must not exist yet" in heard["export again"]
        assert "a checkpoint must be a directory with a checkpoint.json" in heard["restore"]
        assert "No space left on device" in heard["full disk"]
        assert "No space left on device" in heard["export to a full disk"]
        assert "No space left on device" in heard["no more files"]
        assert each["steps"] == [[0], [0, 1]]
    assert "a checkpoint must be a directory" in results[1]["heard"]["restore on one"]
    assert "got process 1: a checkpoint must be a directory" in results[0]["heard"]["restore on one"]
    assert results[0]["losses"] == results[1]["losses"]
    assert sorted(path.name for path in disk.iterdir()) == ["run"]
    assert sorted(path.name for path in (disk / "run").iterdir()) == [".lock", "step_00000000", "step_00000001"]


def test_a_process_that_meets_an_exception_ends_by_it(tmp_path: Path) -> None:
    """It waits for no collective of the others, who are in the next step, and torchrun ends them."""
    with pytest.raises(AssertionError, match="RuntimeError: left alone"):
        launch("torch", "leave", tmp_path, processes=2)
    (alone,) = launch("torch", "resume", tmp_path, processes=1)
    assert alone["step"] == 4
