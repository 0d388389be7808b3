"""One process of a mesh: `worker.py BACKEND FOLDER DEVICES LAYOUT:CASE:OPTIMIZER:STEPS ...`, by torchrun or alone.

Writes what came out of every run to `FOLDER/INDEX.npz`, under LAYOUT:CASE:OPTIMIZER:STEPS.
"""

import sys
from pathlib import Path

import numpy as np

from parity_tests import layouts
from parity_tests.meshes import cases


def start(backend: str, devices: int) -> None:
    """JAX has all devices in this process; torch has a process for each."""
    if backend == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", devices)


def main(backend: str, folder: Path, devices: int, runs: list[str]) -> None:
    start(backend, devices)
    results: dict[str, np.ndarray] = {}
    index = 0
    for run in runs:
        layout, name, optimizer, steps = run.split(":")
        accelerator = cases.accelerator_for(backend, cases.CASES[name], cases.LAYOUTS[layout])
        found = cases.run(accelerator, cases.CASES[name], optimizer, int(steps))
        results |= {f"{run}|{key}": values for key, values in found.items()}
        index = accelerator.process_index
    layouts.leave(folder, index, results)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
