"""A training run that may die at any moment: `worker.py BACKEND ROOT LOG EPOCHS`.

It resumes from ROOT when there is something, and appends a line `step loss` to LOG after every step; the loss as
the 64 bits that it is.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.callbacks import Callback, Run
from crosstrain.metrics import Metrics

BATCH_SIZE = 16


class Log(Callback):
    """Writes every loss down at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        if run.is_main_process:
            with self._path.open("a") as file:
                file.write(f"{run.state.step} {metrics['loss'].hex()}\n")


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"])


def source() -> dict[str, np.ndarray]:
    return {name: values[:200] for name, values in ct.data.digits().train.items()}


def main(backend: str, root: str, log: str, epochs: str) -> None:
    start_processes(backend)
    accelerator = ct.Accelerator(backend, seed=3)
    loader = accelerator.loader(
        source(),
        batch_size=BATCH_SIZE,
        shuffle=True,
        transform=ct.data.compose(ct.data.random_crop(1), ct.data.cutout(2)),
    )
    model = ct.models.build("mlp", ct.models.MLPConfig(hidden=(32,), dropout=0.2), accelerator)
    total = len(loader) * int(epochs)
    state = accelerator.prepare(model, ct.adamw(ct.one_cycle(1e-2, total)), average=ct.ema(0.9))
    trainer = ct.Trainer(accelerator, state, loss_fn, accumulate_steps=2, callbacks=[Log(Path(log))], progress=False)
    history = trainer.fit(
        loader,
        epochs=int(epochs),
        eval_loader=accelerator.loader(source(), batch_size=64),
        checkpoints=ct.CheckpointSpec(root=root, every_steps=3, keep_last=2, keep_best=ct.Best("loss")),
        resume="auto",
    )
    if accelerator.is_main_process:
        with Path(log).open("a") as file:
            file.write(f"end {state.step} {history.stop_reason}\n")
    accelerator.close()
    sys.stdout.flush()
    # A rank that has finished sometimes dies while the interpreter shuts down.
    os._exit(0)


def start_processes(backend: str) -> None:
    """Joins the other processes of a JAX run, and leaves with the process that started this one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if backend == "jax" and "JAX_PROCESSES" in os.environ:
        import jax

        address, count, index = os.environ["JAX_PROCESSES"].split(",")
        jax.distributed.initialize(address, int(count), int(index))


if __name__ == "__main__":
    main(*sys.argv[1:])
