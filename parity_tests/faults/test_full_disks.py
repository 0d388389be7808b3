"""Full disks and places that cannot be written: the error says so, and what was saved before stays whole."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crosstrain as ct
from crosstrain.checkpoint import Checkpoints
from parity_tests.layouts import loss_fn

from .part import Part, fill

FULL = r"must be a place to write to, got: .*No space left on device.*Earlier checkpoints are as they were"
READ_ONLY = r"must be a place to write to, got: .*Read-only file system.*Earlier checkpoints are as they were"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("making a small file system takes the right to mount")
    yield tmp_path
    while tmp_path.is_mount():
        unmount(tmp_path)


def unmount(disk: Path) -> None:
    subprocess.run(["umount", "-l", str(disk)], check=True)


def make_full(disk: Path) -> Callable[[], None]:
    fill(disk)
    return (disk / "filler").unlink


def make_read_only(disk: Path) -> Callable[[], None]:
    """By a second mount above the first, in which nothing is open for writing."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    return lambda: unmount(disk)


@pytest.mark.parametrize(
    ("harm", "message"), [(make_full, FULL), (make_read_only, READ_ONLY)], ids=["full", "read only"]
)
def test_what_was_saved_before_stays_whole(
    backend: str, disk: Path, harm: Callable[[Path], Callable[[], None]], message: str
) -> None:
    """Once there is room again, the same `Checkpoints` go on."""
    part = Part(backend)
    checkpoints = Checkpoints(part.accelerator, disk / "run")
    part.losses(1)
    checkpoints.save(part.state, loader=part.loader)
    checkpoints.wait()
    expected = part.losses(1)
    mend = harm(disk)
    with pytest.raises(ct.CheckpointError, match=message):
        save_at_once(checkpoints, part)
    with pytest.raises(ct.CheckpointError, match=message):
        part.accelerator.export(part.state, disk / "portable")
    assert checkpoints.steps() == [1]
    mend()
    assert sorted(path.name for path in disk.iterdir()) == ["run"]
    assert sorted(path.name for path in (disk / "run").iterdir()) == [".lock", "step_00000001"]
    fresh = Part(backend)
    Checkpoints(fresh.accelerator, disk / "run").restore(fresh.state, loader=fresh.loader)
    assert fresh.losses(1) == expected
    save_at_once(checkpoints, part)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]
    part.accelerator.export(part.state, disk / "portable")
    part.accelerator.restore(disk / "portable", fresh.state)


def test_a_run_ends_with_the_error(backend: str, disk: Path) -> None:
    """`Trainer.fit` raises it at the next save."""
    part = Part(backend)
    (disk / "run").mkdir()
    (disk / "run" / ".lock").touch()
    fill(disk)
    trainer = ct.Trainer(part.accelerator, part.state, loss_fn, progress=False)
    with pytest.raises(ct.CheckpointError, match=FULL):
        trainer.fit(part.loader, epochs=1, checkpoints=ct.CheckpointSpec(root=disk / "run", every_steps=1))
    assert [path.name for path in (disk / "run").iterdir()] == [".lock"]


def save_at_once(checkpoints: Checkpoints, part: Part) -> None:
    checkpoints.save(part.state, loader=part.loader)
    checkpoints.wait()
