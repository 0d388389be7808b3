"""Several CPU devices on fewer cores: collectives find their threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("threads_worker.py")


def run(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WORKER), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}


def test_collectives_of_four_devices_on_two_cores_end(environment: dict[str, str]) -> None:
    """With a thread for each core XLA ends this program after 40 seconds."""
    ended = run(environment=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.split() == ["True"]


def test_devices_that_were_asked_for_before_are_warned_of(environment: dict[str, str]) -> None:
    ended = run("late", environment=environment)
    assert "XLA has one thread for each of 2 cores, too few for 4 CPU devices: steps may hang." in ended.stderr
    assert "PJRT_NPROC=16" in ended.stderr
    assert "too few" not in run("late", environment=environment | {"PJRT_NPROC": "16"}).stderr
