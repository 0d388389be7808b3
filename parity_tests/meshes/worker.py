"""One process of a mesh: `worker.py BACKEND FOLDER LAYOUT:CASE:OPTIMIZER:STEPS ...`, started by torchrun or alone.

Writes what came out of every run to `FOLDER/INDEX.npz`, under LAYOUT:CASE:OPTIMIZER:STEPS.
"""

import sys
from pathlib import Path

import numpy as np

from parity_tests import layouts
from parity_tests.meshes import cases


def main(backend: str, folder: Path, runs: list[str]) -> None:
    results: dict[str, np.ndarray] = {}
    for run in runs:
        layout, name, optimizer, steps = run.split(":")
        accelerator = cases.accelerator_for(backend, cases.CASES[name], cases.LAYOUTS[layout])
        found = cases.run(accelerator, cases.CASES[name], optimizer, int(steps))
        results |= {f"{run}|{key}": values for key, values in found.items()}
    index = accelerator.process_index
    accelerator.close()
    layouts.leave(folder, index, results)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
