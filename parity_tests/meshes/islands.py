"""A process that is an island: `islands.py BACKEND FOLDER [PROCESSES INDEX PORT]`. Run by test_islands.py.

Torch's processes are started by torchrun; JAX's get their place on the command line.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from parity_tests import layouts

CONFIG = ct.models.MLPConfig(hidden=(16,), dropout=0.25)
SPECS = {
    "diloco": ct.DiLoCo(every=2),
    "heavy ball": ct.DiLoCo(every=3, learning_rate=0.5, momentum=0.8, nesterov=False),
    "local": ct.DiLoCo(every=3, learning_rate=1.0, momentum=0.0),
}
BATCH, STEPS, ISLANDS = 16, 7, 2


class Losses(ct.callbacks.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step_end(self, run: Any, metrics: ct.Metrics) -> None:
        self.values.append(metrics["loss"])


def prepared(accelerator: ct.Accelerator, average: Any = None) -> ct.TrainState:
    return accelerator.prepare(ct.models.build("mlp", CONFIG, accelerator), ct.adamw(1e-2), average=average)


def train(accelerator: ct.Accelerator, spec: ct.DiLoCo, stop: int | None = None) -> dict[str, np.ndarray]:
    """What an island sees and ends with; with `stop` it goes on in a new state after as many steps."""
    loader = accelerator.loader(layouts.data_of("mlp"), batch_size=BATCH, shuffle=True, drop_last=True)
    losses, outer = Losses(), ct.callbacks.OuterSteps(spec, at_end=stop is None)
    state = prepared(accelerator)
    ct.Trainer(accelerator, state, layouts.loss_fn, callbacks=[outer, losses], progress=False).fit(
        loader, steps=stop or STEPS
    )
    if stop is not None:
        snapshot, kept, position = state.snapshot(), outer.state_dict(), loader.state_dict()
        state, outer = prepared(accelerator), ct.callbacks.OuterSteps(spec)
        loader = accelerator.loader(layouts.data_of("mlp"), batch_size=BATCH, shuffle=True, drop_last=True)
        state.load(snapshot)
        outer.load_state_dict(kept)
        loader.load_state_dict(position)
        ct.Trainer(accelerator, state, layouts.loss_fn, callbacks=[outer, losses], progress=False).fit(
            loader, steps=STEPS - stop
        )
    trainer = ct.Trainer(accelerator, state, layouts.loss_fn, progress=False)
    evaluation = trainer.evaluate(accelerator.loader(layouts.data_of("mlp"), batch_size=32))
    snapshot = state.snapshot()
    moments = {f"{slot}/{name}": each for slot, kept in snapshot.moments.items() for name, each in kept.items()}
    return {
        "loss": np.array(losses.values),
        "evaluation": np.array([evaluation["loss"], evaluation["accuracy"]]),
        **{f"param/{name}": values for name, values in snapshot.params.items()},
        **{f"moment/{name}": values for name, values in moments.items()},
        **{f"outer/{name}": values for name, values in outer.state_dict().items()},
    }


def watched(accelerator: ct.Accelerator) -> dict[str, np.ndarray]:
    """Why and after which step an island ends when the loss of another is not finite."""
    data = {name: np.array(values[: 4 * BATCH]) for name, values in layouts.data_of("mlp").items()}
    data["image"][2 * BATCH - 1] = np.nan  # an example of the last island's second batch
    callbacks = [ct.callbacks.OuterSteps(ct.DiLoCo(every=4)), ct.callbacks.NanGuard()]
    trainer = ct.Trainer(
        accelerator, prepared(accelerator), layouts.loss_fn, callbacks=callbacks, log_every=1, progress=False
    )
    history = trainer.fit(accelerator.loader(data, batch_size=BATCH), epochs=2)
    return {"stop": np.array(f"{history.stop_reason}"), "step": np.array(trainer.state.step)}


def refused(backend: str) -> dict[str, np.ndarray]:
    """`refused/` + what was tried -> the error that it ended in."""
    accelerator = ct.Accelerator(backend, islands=True)
    together = ct.Accelerator(backend)
    data = layouts.data_of("mlp")
    trainer = ct.Trainer(
        together,
        prepared(together),
        layouts.loss_fn,
        callbacks=[ct.callbacks.OuterSteps(ct.DiLoCo(every=2))],
        progress=False,
    )
    attempts = {
        "no islands": lambda: trainer.fit(together.loader(data, batch_size=16), epochs=1),
        "nothing left": lambda: accelerator.loader(data, batch_size=16),
        "checkpoints": lambda: ct.checkpoint.Checkpoints(accelerator, "unused"),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[f"refused/{name}"] = np.array("nothing was refused")
        except ct.CrosstrainError as error:
            found[f"refused/{name}"] = np.array(f"{type(error).__name__}: {error}")
    return found


def main(backend: str, folder: Path, place: list[int]) -> None:
    if place:
        import jax

        processes, index, port = place
        jax.config.update("jax_num_cpu_devices", 2)
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    accelerator = ct.Accelerator(backend, precision="fp64", islands=True)
    results = {f"{name}|{key}": each for name, spec in SPECS.items() for key, each in train(accelerator, spec).items()}
    results |= {f"resumed|{key}": each for key, each in train(accelerator, SPECS["diloco"], stop=3).items()}
    results |= {f"watched|{key}": each for key, each in watched(accelerator).items()}
    results |= refused(backend)
    accelerator.wait_for_everyone()
    index = accelerator.process_index
    accelerator.close()
    layouts.leave(folder, index, results)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(each) for each in sys.argv[3:]])
