"""How jobs end: one process that fails ends the others, its traceback is last, signals end all, nobody is left."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from . import starting

FAILURES = [("raise", "deaf"), ("raise", "gather"), ("kill", "deaf"), ("kill", "gather"), ("exit", "deaf")]
QUICK = {("jax", "raise", "deaf")}


def start(backend: str, last: str, others: str, folder: Path, *options: object) -> subprocess.Popen[str]:
    script = starting.SCRIPTS / "misbehave.py"
    launch = ["launch", "--backend", backend, "--processes", 2, *options]
    return starting.start(*launch, script, backend, last, others, folder)


def ready(folder: Path) -> bool:
    return all((folder / f"ready{index}").exists() for index in range(2))


def pids(folder: Path) -> list[int]:
    """Both processes, and what each of them has started."""
    return [int(pid) for path in folder.glob("pids*") for pid in path.read_text().split()]


def marked(cases: list[tuple[str, ...]], quick: set[tuple[str, ...]]) -> list[Any]:
    return [case if case in quick else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("backend", "last", "others"), marked([(b, *each) for b in ("jax", "torch") for each in FAILURES], QUICK)
)
def test_a_process_that_fails_ends_the_job(backend: str, last: str, others: str, tmp_path: Path) -> None:
    process = start(backend, last, others, tmp_path)
    starting.wait_for(lambda: ready(tmp_path), process)
    began = time.monotonic()
    code, output = starting.finish(process)
    assert time.monotonic() - began < 10
    final = output.rstrip().splitlines()
    assert code == {"raise": 1, "kill": 128 + signal.SIGKILL, "exit": 7}[last]
    if last == "raise":
        assert final[-1] == "ValueError: planted"
        assert 'misbehave.py", line' in output[output.index("process 1 (pid") :]
    else:
        assert "process 1 (pid" in final[-1]
        assert {"kill": "was killed by SIGKILL", "exit": "failed with exit code 7"}[last] in final[-1]
    assert not [pid for pid in pids(tmp_path) if starting.alive(pid)]


SIGNALS = [(b, name) for b in ("jax", "torch") for name in ("SIGTERM", "SIGINT", "SIGHUP")]


@pytest.mark.parametrize(("backend", "name"), marked(SIGNALS, {("torch", "SIGTERM")}))
def test_a_signal_ends_all_processes_and_leaves_them_time(backend: str, name: str, tmp_path: Path) -> None:
    process = start(backend, "sleep", "sleep", tmp_path)
    starting.wait_for(lambda: ready(tmp_path), process)
    process.send_signal(getattr(signal, name))
    code, output = starting.finish(process)
    assert code == 128 + getattr(signal, name), output
    assert not [pid for pid in pids(tmp_path) if starting.alive(pid)]
    assert all((tmp_path / f"left{index}").exists() for index in range(2)), output
    assert "Traceback" not in output


@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_job_that_was_started_by_nohup_outlives_its_terminal(backend: str, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which processes inherit; it is all that nohup does
    try:
        process = start(backend, "sleep", "sleep", tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    starting.wait_for(lambda: ready(tmp_path), process)
    for pid in (process.pid, *pids(tmp_path)):
        os.kill(pid, signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, output = starting.finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert all((tmp_path / f"left{index}").exists() for index in range(2)), output


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_processes_that_keep_signals_to_themselves_are_killed(backend: str, tmp_path: Path) -> None:
    process = start(backend, "deaf", "deaf", tmp_path, "--grace-s", 2)
    starting.wait_for(lambda: ready(tmp_path), process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, output = starting.finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert 1.5 < time.monotonic() - began < 6
    assert not [pid for pid in pids(tmp_path) if starting.alive(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_nobody_outlives_a_launcher_that_was_killed(backend: str, tmp_path: Path) -> None:
    process = start(backend, "deaf", "deaf", tmp_path, "--grace-s", 1)
    starting.wait_for(lambda: ready(tmp_path), process)
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(starting.alive, pids(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in pids(tmp_path) if starting.alive(pid)]
    starting.end(left)
    assert not left
    starting.finish(process)
