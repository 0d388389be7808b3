"""A training script with no word about processes: `train.py BACKEND FOLDER [KILL_AT]`.

It resumes from FOLDER, and its main process appends a line `step loss` to FOLDER/log after every step, and leaves a
model card in FOLDER/card. The last process kills itself at step KILL_AT, once.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import crosstrain as ct
from crosstrain.callbacks import Callback, Run
from crosstrain.metrics import Metrics


class Log(Callback):
    """Writes losses down, and dies where it is told to."""

    def __init__(self, folder: Path, kill_at: int) -> None:
        self._folder, self._kill_at = folder, kill_at

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        if run.is_main_process:
            with (self._folder / "log").open("a") as file:
                file.write(f"{run.state.step} {metrics['loss'].hex()}\n")
        killed = self._folder / "killed"
        if accelerator.is_last_process and run.state.step == self._kill_at and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"])


backend, folder, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1
accelerator = ct.Accelerator(backend, precision="fp64")
source = {name: values[:160] for name, values in ct.data.digits().train.items()}
loader = accelerator.loader(source, batch_size=16, shuffle=True)
model = ct.models.build("mlp", ct.models.MLPConfig(hidden=(16,)), accelerator)
state = accelerator.prepare(model, ct.adamw(ct.one_cycle(1e-2, 20)))
callbacks = [ct.callbacks.ModelCard(folder / "card"), Log(folder, kill_at)]
trainer = ct.Trainer(accelerator, state, loss_fn, callbacks=callbacks, progress=False)
trainer.fit(loader, epochs=2, checkpoints=ct.CheckpointSpec(root=folder / "run", every_steps=3), resume="auto")
print(
    f"process {accelerator.process_index} of {accelerator.process_count}, {accelerator.device_count} devices",
    flush=True,
)
accelerator.close()
