"""Runs all contestants of each workload in turn, round after round, and writes docs/benchmarks.md."""

import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import tyro

from rivals.workloads import WORKLOADS, Workload

HERE = Path(__file__).parents[1]
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SCALE = {"us": 1e6, "ms": 1e3}
THREADS = "2"
LIBRARIES = ("jax", "flax", "optax", "torch", "keras", "accelerate", "lightning", "transformers")


@dataclass
class Contestant:
    """A process that waits to be asked; until then all of it stands still, threads that read ahead too."""

    name: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory_mb: float = 0.0

    def run(self, steps: int) -> None:
        """One block."""
        assert self.process.stdin is not None
        self.signal(signal.SIGCONT)
        print(steps, file=self.process.stdin, flush=True)
        found = json.loads(self.line())
        self.signal(signal.SIGSTOP)
        self.seconds.append(found["seconds"] / steps)
        self.losses.append(found["loss"])
        self.memory_mb = found["memory_mb"]

    def signal(self, number: int) -> None:
        """To the process and those that it has started."""
        os.killpg(self.process.pid, number)

    def line(self) -> str:
        """What it prints next; a contestant that failed ends everything."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(('{"', "ready")):  # libraries may print, too
                return line
        raise SystemExit(f"{self.name} ended with {self.process.wait()}; its error stands above.")


def start(workload: str, name: str, place: str) -> Contestant:
    """Starts a contestant and waits until its step is compiled."""
    contestant = Contestant(
        name,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "rivals.worker", workload, place],
            cwd=HERE,
            env=os.environ | {"OMP_NUM_THREADS": THREADS, "KERAS_BACKEND": "jax", "TQDM_DISABLE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ),
    )
    contestant.line()
    contestant.signal(signal.SIGSTOP)
    return contestant


def measure(key: str, workload: Workload, rounds: int) -> list[Contestant]:
    """Everyone once in each of the `rounds`, in another order: after a long one the processor may be slower."""
    contestants: list[Contestant] = []
    try:
        for name, place in workload.contestants.items():
            contestants.append(start(key, name, place))
        for turn in range(rounds):
            for contestant in random.Random(turn).sample(contestants, len(contestants)):
                contestant.run(workload.steps)
    finally:
        for contestant in contestants:
            contestant.signal(signal.SIGKILL)
            contestant.process.wait()
    return contestants


def table(workload: Workload, contestants: list[Contestant]) -> Iterator[str]:
    """Medians, the spread, and the ratio to the fastest plain loop of the engine."""
    yield f"### {workload.title}\n"
    yield f"| contestant | {workload.unit} per step | lowest to highest | of the best raw loop | memory, MB |"
    yield "|---|---|---|---|---|"
    median = {each.name: statistics.median(each.seconds) * SCALE[workload.unit] for each in contestants}
    for each in contestants:
        group = each.name.split(":")[0] if "compiled" in each.name else each.name.split(",")[0]
        raw = ("torch, compiled: raw",) if "compiled" in group else (f"{group}, raw", f"{group} raw")
        best = min(value for name, value in median.items() if name.startswith(raw))
        low, high = (bound(each.seconds) * SCALE[workload.unit] for bound in (min, max))
        yield (
            f"| {each.name} | {median[each.name]:.1f} | {low:.1f} to {high:.1f} | {median[each.name] / best:.2f} | "
            f"{each.memory_mb:.0f} |"
        )
    yield ""


def write(machine: str, tables: dict[str, str]) -> None:
    """Puts tables, by their titles, into the page; those of other workloads stay."""
    page = PAGE.read_text()
    head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    old = page[len(head) : -len(tail)].split("\n### ")[1:]
    kept = {part.split("\n")[0]: f"### {part.strip()}\n" for part in old}
    found = [tables.get(each.title) or kept.get(each.title, "") for each in WORKLOADS.values()]
    PAGE.write_text("\n".join([f"{head}\n", machine, *filter(None, found)]) + f"\n{tail}")


def main(workloads: list[str] = list(WORKLOADS), rounds: int = 7, save: bool = True) -> None:  # noqa: B006
    """Measures and prints.

    Args:
        workloads: which of them.
        rounds: blocks of each contestant.
        save: write docs/benchmarks.md.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {versions}.\n"
    tables: dict[str, str] = {}
    for key in workloads:
        workload = WORKLOADS[key]
        tables[workload.title] = "\n".join(table(workload, measure(key, workload, rounds * workload.turns)))
        print(tables[workload.title], flush=True)
    if save:
        write(machine, tables)


if __name__ == "__main__":
    tyro.cli(main)
