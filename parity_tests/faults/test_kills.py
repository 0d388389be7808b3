"""SIGKILL at any moment: the job resumes from a whole checkpoint, and its losses are those of a run that never died."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from parity_tests import starting

WORKER = Path(__file__).with_name("worker.py")
EPOCHS = 3
STEPS = 13 * EPOCHS


def start(backend: str, folder: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    command = starting.torchrun(processes, WORKER, backend, folder / "run", folder / "log", EPOCHS)
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def lines(folder: Path) -> list[list[str]]:
    """What was logged, without a line that a kill cut off."""
    text = (folder / "log").read_text() if (folder / "log").exists() else ""
    return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(300) == 0, (folder / "output").read_text()[-3000:]
    assert lines(folder)[-1] == ["end", str(STEPS), "None"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[list[str]]]:
    """(engine, processes) -> the log of a run that nobody killed, made when first asked for."""

    class Runs(dict):  # type: ignore[type-arg]
        def __missing__(self, key: tuple[str, int]) -> list[list[str]]:
            folder = tmp_path_factory.mktemp("whole")
            finish(start(key[0], folder, key[1]), folder)
            self[key] = lines(folder)
            return self[key]

    return Runs()


def kill_at(process: subprocess.Popen[bytes], folder: Path, *, new_lines: int, delay_s: float) -> None:
    """Kills the whole job once it has logged so many new steps, and a moment later."""
    already = len(lines(folder))
    while process.poll() is None and len(lines(folder)) < already + new_lines:
        time.sleep(0.005)
    time.sleep(delay_s)
    # torchrun's workers are in sessions of their own; what ends a job on a cluster ends them with it.
    workers = descendants(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*own, *(each for child in own for each in descendants(child))]


def kill_one_worker(launcher: subprocess.Popen[bytes], folder: Path, *, new_lines: int, rank: int) -> None:
    """Kills one process of two; the launcher ends the other, and says that it failed."""
    already = len(lines(folder))
    while launcher.poll() is None and len(lines(folder)) < already + new_lines:
        time.sleep(0.005)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(workers[rank]), signal.SIGKILL)
    assert launcher.wait(120) != 0


def committed(folder: Path) -> int:
    """The step of the newest committed checkpoint; 0 where there is none."""
    return max((int(path.parent.name[5:]) for path in (folder / "run").glob("step_*/checkpoint.json")), default=0)


def killed_run(backend: str, folder: Path, kills: int, seed: int, processes: int = 1) -> list[list[str]]:
    """The log of a job that was killed and started again; each start goes on from the newest committed checkpoint."""
    draw = random.Random(seed)
    for _ in range(kills):
        process = start(backend, folder, processes)
        kill_at(process, folder, new_lines=draw.randint(0, 9), delay_s=draw.random() * 0.03)
        if ["end", str(STEPS), "None"] in lines(folder):
            return lines(folder)
        done, newest = len(lines(folder)), committed(folder)
        process = start(backend, folder, processes)
        kill_at(process, folder, new_lines=1, delay_s=draw.random() * 0.1)
        assert int(lines(folder)[done][0]) == newest + 1
    finish(start(backend, folder, processes), folder)
    return lines(folder)


def check(found: list[list[str]], expected: list[list[str]]) -> None:
    """Every step that was ever taken, however often, had the loss of the run that never died; none is missing."""
    wanted = {line[0]: line[1] for line in expected if line[0] != "end"}
    steps = [line for line in found if line[0] != "end"]
    assert {line[0] for line in steps} == set(wanted)
    assert all(wanted[step] == loss for step, loss in steps)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_killed_job_goes_on(backend: str, whole: dict[tuple[str, int], list[list[str]]], tmp_path: Path) -> None:
    check(killed_run(backend, tmp_path, kills=1, seed=0), whole[backend, 1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_hundred_and_twenty_kills(
    backend: str, seed: int, whole: dict[tuple[str, int], list[list[str]]], tmp_path: Path
) -> None:
    check(killed_run(backend, tmp_path, kills=2, seed=seed + 1), whole[backend, 1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_of_two_processes(seed: int, whole: dict[tuple[str, int], list[list[str]]], tmp_path: Path) -> None:
    check(killed_run("torch", tmp_path, kills=1, seed=seed + 20, processes=2), whole["torch", 2])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_of_one_process_of_two(rank: int, whole: dict[tuple[str, int], list[list[str]]], tmp_path: Path) -> None:
    for new_lines in (4, 5, 6):
        kill_one_worker(start("torch", tmp_path, 2), tmp_path, new_lines=new_lines, rank=rank)
    finish(start("torch", tmp_path, 2), tmp_path)
    check(lines(tmp_path), whole["torch", 2])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_signal_saves_and_ends_the_run(
    backend: str, whole: dict[tuple[str, int], list[list[str]]], tmp_path: Path
) -> None:
    process = start(backend, tmp_path)
    while process.poll() is None and len(lines(tmp_path)) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, (tmp_path / "output").read_text()[-3000:]
    step, reason = lines(tmp_path)[-1][1:]
    assert reason == "SIGTERM"
    assert int(step) < STEPS
    assert (tmp_path / "run" / f"step_{int(step):08d}" / "checkpoint.json").exists()
    finish(start(backend, tmp_path), tmp_path)
    taken = [line[0] for line in lines(tmp_path) if line[0] != "end"]
    assert len(taken) == len(set(taken)) == STEPS
    check(lines(tmp_path), whole[backend, 1])
