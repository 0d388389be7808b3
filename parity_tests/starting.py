"""Starting the processes of a test: by torchrun, or one by one as JAX's meet; and waiting for all of them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crosstrain.launch.ports import free_port

_SHOWN = 20_000


def torchrun(processes: int, *arguments: object) -> list[str]:
    """The command of a Python script or module in so many processes; of one without torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]


def one_by_one(processes: int, *arguments: object) -> list[list[str]]:
    """The command of each process, which ends with their number, its index and the port where they meet."""
    port = free_port()
    command = [sys.executable, *map(str, arguments)]
    return [[*command, str(processes), str(index), str(port)] for index in range(processes)]


def commands(backend: str, processes: int, *arguments: object) -> list[list[str]]:
    """What starts so many processes of an engine; JAX's are told where they meet."""
    return {"torch": lambda *job: [torchrun(*job)], "jax": one_by_one}[backend](processes, *arguments)


def run(*commands: Sequence[str], timeout_s: float = 420, cwd: Path | None = None) -> None:
    """Runs commands beside each other, and leaves no process of theirs.

    Raises:
        AssertionError: one failed; has the output of all.
        TimeoutExpired: a process waits for one that does not come, or for something else.
    """
    workers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=cwd
        )
        for command in commands
    ]
    try:
        outputs = [worker.communicate(timeout=timeout_s)[0] for worker in workers]
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    assert not any(worker.returncode for worker in workers), "\n".join(each[-_SHOWN:] for each in outputs)
