"""Gradients that are added up in bfloat16: `narrow.py BACKEND FOLDER DEVICES`, by torchrun or alone.

Writes to `FOLDER/INDEX.npz`, for each layout: losses of a run in float32 with and without, and the gradients of one
batch in float64 with.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from parity_tests import layouts
from parity_tests.meshes.worker import start

LAYOUTS = {"data": {"data": -1}, "fsdp": {"data": 1, "fsdp": -1}, "both": {"data": 2, "fsdp": -1}}
CONFIG = ct.models.GPTConfig(vocab_size=32, dim=16, n_layers=2, n_heads=2, max_seq_len=8, dropout=0.1)
ROWS = 16


def accelerator(backend: str, mesh: dict[str, int], wide: str, reduce: str | None) -> ct.Accelerator:
    precision = ct.Precision(param_dtype=wide, compute_dtype=wide, reduce_dtype=reduce)
    return ct.Accelerator(backend, precision=precision, mesh=ct.MeshSpec(**mesh))


def losses(backend: str, mesh: dict[str, int], reduce: str | None) -> np.ndarray:
    made = accelerator(backend, mesh, "float32", reduce)
    state = made.prepare(ct.models.build("gpt", CONFIG, made), ct.adamw(1e-2))
    step = made.train_step(layouts.loss_fn, accumulate_steps=2, clip_norm=0.5)
    loader = made.loader(layouts.data_of("gpt"), batch_size=ROWS, shuffle=True)
    return np.array([step(state, batch)["loss"] for _ in range(3) for batch in loader])


def gradients(made: ct.Accelerator, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    state = made.prepare(ct.models.build("gpt", CONFIG, made), ct.sgd(0.1))
    step = made.value_and_grad(layouts.loss_fn)
    step(state, batch)  # on torch the first step is reduced without DDP
    return step(state, batch)[1].to_host()


def main(backend: str, folder: Path, devices: int) -> None:
    start(backend, devices)
    batch = {name: values[:ROWS] for name, values in layouts.data_of("gpt").items()}
    results: dict[str, Any] = {}
    for name, mesh in LAYOUTS.items():
        if devices == 2 and name == "both":
            continue
        made = accelerator(backend, mesh, "float64", "bf16")
        mine = made.process_index if backend == "torch" else 0
        parts = made.process_count
        local = {key: np.split(values, parts)[mine] for key, values in batch.items()}
        results |= {f"{name}/gradient/{key}": each for key, each in gradients(made, local).items()}
        for reduce in (None, "bf16"):
            results[f"{name}/loss/{reduce}"] = losses(backend, mesh, reduce)
    layouts.leave(folder, made.process_index, results)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
