"""Every layout of a mesh against one device, on both engines, and the engines against each other, in float64.

`python -m parity_tests.meshes.table [--steps 50] [--devices 2,4,8]` (or `make parity-mesh`) prints the table.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from parity_tests.meshes import cases, launching

OPTIMIZER = "adamw"
ENGINES = ("jax", "torch")


def results_of(backend: str, devices: int, steps: int) -> launching.Results:
    """What the first process of every layout on so many devices found."""
    runs = [
        launching.run_name(layout, case, OPTIMIZER, steps)
        for layout in cases.LAYOUTS.values()
        for case in cases.CASES.values()
        if layout.devices == devices and cases.runs(layout, case, backend)
    ]
    print(f"{backend}: {len(runs)} runs on {devices} device{'s' * (devices > 1)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return launching.launch(backend, Path(folder), devices, runs, timeout_s=3600)[0]


def main(steps: int, counts: list[int]) -> int:
    """Prints a row for each layout and model; how many differences are above the bound."""
    found = {
        backend: {run: each for count in (1, *counts) for run, each in results_of(backend, count, steps).items()}
        for backend in ENGINES
    }
    table = Table(title=f"largest relative difference over {steps} steps in float64, limit {cases.BOUND:g}")
    for column in ("layout", "model", "jax, one device", "torch, one device", "jax, torch: losses"):
        table.add_column(column, justify="left" if column in ("layout", "model") else "right")
    wrong = 0
    for run in {run: None for each in found.values() for run in each}:
        layout, model, *_ = run.split(":")
        there = [found[engine].get(run) for engine in ENGINES]
        alone = [found[engine][launching.on_one(run)] for engine in ENGINES]
        values = [None if mine is None else cases.worst(mine, one)[0] for mine, one in zip(there, alone, strict=True)]
        losses = [{"loss": each["loss"]} for each in there if each is not None]
        values.append(cases.worst(*losses)[0] if len(losses) == 2 else None)
        wrong += sum(value is not None and not value <= cases.BOUND for value in values)
        table.add_row(layout, model, *map(_cell, values))
    Console(width=110).print(table)
    return wrong


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if math.isfinite(value) else "differs"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=cases.STEPS)
    parser.add_argument("--devices", default="2,4,8")
    arguments = parser.parse_args()
    sys.exit(1 if main(arguments.steps, [int(count) for count in arguments.devices.split(",")]) else 0)
