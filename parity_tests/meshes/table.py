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


def results_of(backend: str, devices: int, steps: int) -> launching.Results:
    """What the first process of every layout on so many devices found."""
    runs = [
        launching.run_name(layout, case, OPTIMIZER, steps)
        for layout in cases.LAYOUTS.values()
        for case in cases.CASES.values()
        if layout.devices == devices and cases.runs(layout, case)
    ]
    with tempfile.TemporaryDirectory() as folder:
        return launching.launch(backend, Path(folder), devices, runs, timeout_s=3600)[0]


def main(steps: int, counts: list[int]) -> int:
    """Prints a row for each layout and model; how many differences are above the bound."""
    found = {
        backend: {run: each for count in (1, *counts) for run, each in results_of(backend, count, steps).items()}
        for backend in ("jax", "torch")
    }
    table = Table(title=f"largest relative difference over {steps} steps in float64, limit {cases.BOUND:g}")
    for column in ("layout", "model", "jax, one device", "torch, one device", "jax, torch: losses"):
        table.add_column(column, justify="left" if column in ("layout", "model") else "right")
    wrong = 0
    for run in found["jax"]:
        layout, model, *_ = run.split(":")
        own = [cases.worst(each[run], each[launching.on_one(run)])[0] for each in found.values()]
        both = cases.worst(*({"loss": each[run]["loss"]} for each in found.values()))[0]
        values = [*own, both]
        wrong += sum(not value <= cases.BOUND for value in values)
        table.add_row(layout, model, *(f"{value:.1e}" if math.isfinite(value) else "differs" for value in values))
    Console(width=110).print(table)
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=cases.STEPS)
    parser.add_argument("--devices", default="2,4,8")
    arguments = parser.parse_args()
    sys.exit(1 if main(arguments.steps, [int(count) for count in arguments.devices.split(",")]) else 0)
