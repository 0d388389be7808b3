"""What a child tells its launcher: files in a folder of the job, one per process id, since a killed child says nothing.

`started-PID` and `done-PID` are empty; the second says that the process leaves as it should. `failed-PID.json` holds
the time, the index and the traceback.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from crosstrain.launch.engine import Ended

_FATAL = {signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


@dataclass(frozen=True, slots=True)
class Report:
    """A failure as the child saw it; `time_s` since the epoch."""

    time_s: float
    index: int | None
    traceback: str


def started(folder: Path) -> None:
    """Called by a child first of all."""
    (folder / f"started-{os.getpid()}").touch()


def done(folder: Path) -> None:
    """Called by a child that has succeeded, or ends since it was told to."""
    (folder / f"done-{os.getpid()}").touch()


def failed(folder: Path, index: int | None, text: str) -> None:
    """Called by a child whose script has raised."""
    partial = folder / f"partial-{os.getpid()}"
    partial.write_text(json.dumps({"time_s": time.time(), "index": index, "traceback": text}))
    partial.rename(folder / f"failed-{os.getpid()}.json")


def read(folder: Path, pid: int) -> Report | None:
    """What the process reported, if it did."""
    path = folder / f"failed-{pid}.json"
    return Report(**json.loads(path.read_text())) if path.exists() else None


def any_failed(folder: Path) -> bool:
    """Whether a process of this job has reported a failure."""
    return any(folder.glob("failed-*"))


def is_done(folder: Path, pid: int) -> bool:
    """Whether it left as it should."""
    return (folder / f"done-{pid}").exists()


def children(folder: Path) -> list[int]:
    """Process ids of all that ever started."""
    return [int(path.name.partition("-")[2]) for path in folder.glob("started-*")]


def cause(folder: Path, ended: list[Ended]) -> Ended:
    """The failure that came first; the others mostly follow from it.

    A process that was killed from outside comes before exceptions, which its siblings raise since they have lost it.
    SIGABRT, with which the frameworks follow others, comes last.
    """

    def rank(each: Ended) -> tuple[int, float]:
        report = read(folder, each.pid)
        if -each.exit_code in _FATAL:
            return 0, 0.0
        if report is not None:
            return 1, report.time_s
        return (3 if each.exit_code == -signal.SIGABRT else 2), 0.0

    return min(ended, key=rank)


def exit_code(ended: Ended) -> int:
    """As a shell says it: 128 + n for signal n."""
    return ended.exit_code if ended.exit_code > 0 else 128 - ended.exit_code


def describe(folder: Path, ended: list[Ended]) -> str:
    """Why a job failed, in words: the cause and its traceback last, one line for every process that followed it."""
    first = cause(folder, ended)
    lines = []
    for each in ended:
        report = read(folder, each.pid)
        if each is not first and report is not None:
            lines.append(f"{_name(each, report)} also failed: {_error_line(report.traceback)}")
    report = read(folder, first.pid)
    name = _name(first, report)
    if first.exit_code < 0 and report is None:
        lines.append(_killed(name, first))
    elif report is None or not report.traceback:
        lines.append(f"{name} failed with exit code {first.exit_code}, and the job was ended.")
    else:
        lines += [f"{name} failed, and the job was ended:", report.traceback.rstrip()]
    return "\n".join(lines)


def _error_line(text: str) -> str:
    """The error of a traceback; below it stand further lines, notes, and what JAX says of frames that it left out."""
    lines = text.strip().splitlines()
    frames = [index for index, line in enumerate(lines) if line.startswith('  File "')]
    rest = lines[frames[-1] + 1 :] if frames else lines[-1:]
    return next((line for line in rest if not line.startswith(" ")), "")


def _name(ended: Ended, report: Report | None) -> str:
    index = ended.index if report is None or report.index is None else report.index
    return f"process {index} (pid {ended.pid})" if index is not None else f"process with pid {ended.pid}"


def _killed(name: str, ended: Ended) -> str:
    number = -ended.exit_code
    said = f"{name} was killed by {signal.Signals(number).name}, and the job was ended."
    if number == signal.SIGKILL:
        said += (
            " It did not do that itself: mostly the machine had run out of memory (look at `dmesg | grep -i oom`), or "
            "a scheduler or a person ended it."
        )
    elif number == signal.SIGABRT:
        said += " A framework gave up; what it said stands above."
    elif number == signal.SIGSEGV:
        said += " Compiled code crashed; `python -X faulthandler` shows where."
    return said
