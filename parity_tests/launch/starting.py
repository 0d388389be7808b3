"""Runs `crosstrain` as a user does, in a session of its own, and waits for what it is to write."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parent
CROSSTRAIN = [sys.executable, "-m", "crosstrain"]
TIMEOUT_S = 120


def start(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The command, with its output on one pipe."""
    command = [*CROSSTRAIN, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | (env or {}),
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and the output."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return process.returncode, output


def crosstrain(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    return finish(start(*arguments, env=env))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
