"""Starts the processes of a mesh and reads what they left."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from parity_tests import layouts, starting
from parity_tests.meshes import cases

ROOT = Path(__file__).parents[2]
_LIMIT_S = 1800  # a group compiles some hundred programs, on two cores beside another one
Results = dict[str, dict[str, np.ndarray]]
"""LAYOUT:CASE:OPTIMIZER:STEPS -> name -> array."""


def run_name(layout: cases.Layout, case: cases.Case, optimizer: str, steps: int) -> str:
    return f"{layout.name}:{case.name}:{optimizer}:{steps}"


def on_one(run: str) -> str:
    """The same run on one device."""
    return ":".join([cases.ONE.name, *run.split(":")[1:]])


def launch(backend: str, folder: Path, devices: int, runs: Sequence[str], timeout_s: float = _LIMIT_S) -> list[Results]:
    """Runs on as many devices; what each process found.

    Raises:
        AssertionError: a process failed; has its output.
    """
    processes = devices if backend == "torch" else 1
    start("worker", [backend, str(folder), str(devices), *runs], processes, timeout_s)
    return [_by_run(layouts.read(folder, index)) for index in range(processes)]


def start(module: str, arguments: Sequence[str], processes: int, timeout_s: float = _LIMIT_S) -> None:
    """Runs a module of this package in one process, or in several that torchrun starts.

    Raises:
        AssertionError: a process failed; has its output.
    """
    command = starting.torchrun(processes, "-m", f"{__package__}.{module}", *arguments)
    starting.run(command, timeout_s=timeout_s, cwd=ROOT)


def _by_run(results: Mapping[str, np.ndarray]) -> Results:
    found: Results = {}
    for key, values in results.items():
        run, name = key.split("|")
        found.setdefault(run, {})[name] = values
    return found
