"""Starts a part of a run, `part.py`, with some processes, and reads what each of them wrote."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("part.py")
# A process that waits for one that does not come is a failure, not a slow test.
TIMEOUT_S = 150


def launch(backend: str, scenario: str, folder: Path, *, processes: int, devices: int = 1, **options: Any) -> list[Any]:
    """What each process of a part returned; `options` are the scenario's, and `devices` those of each JAX process."""
    job = {"backend": backend, "scenario": scenario, "folder": str(folder), "devices": devices, "options": options}
    start = _torchrun if backend == "torch" else _jax
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        for command in start(job, processes)
    ]
    try:
        outputs = [worker.communicate(timeout=TIMEOUT_S)[0] for worker in workers]
    finally:
        for worker in workers:
            # With torchrun go the processes that it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    assert not any(worker.returncode for worker in workers), "\n".join(output[-20_000:] for output in outputs)
    return [json.loads((folder / f"{scenario}-{index}.json").read_text()) for index in range(processes)]


def _torchrun(job: dict[str, Any], processes: int) -> list[list[str]]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [[sys.executable, *(launcher if processes > 1 else []), str(WORKER), json.dumps(job)]]


def _jax(job: dict[str, Any], processes: int) -> list[list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [f"127.0.0.1:{port},{processes},{index}" for index in range(processes)]
    return [[sys.executable, str(WORKER), json.dumps(job), place] for place in places]
