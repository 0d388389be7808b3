"""One process of a part of a run: `part.py JOB [ADDRESS,PROCESSES,INDEX]`. The scenarios can also be called.

What a scenario returns is written to `SCENARIO-INDEX.json` in the job's folder.
"""

import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import crosstrain as ct
from crosstrain.callbacks import Callback, Run
from crosstrain.checkpoint import Checkpoints
from crosstrain.metrics import Metrics
from parity_tests import layouts


class Part:
    """A model that drops out, an optimizer with moments, an average, and a shuffled loader of 83 examples."""

    def __init__(self, backend: str, mesh: dict[str, int] | None = None) -> None:
        self.accelerator = ct.Accelerator(backend, precision="fp64", mesh=ct.MeshSpec(**mesh or {}))
        config, options = layouts.CASES["mlp"]
        model = ct.models.build("mlp", config, self.accelerator)
        self.loader = self.accelerator.loader(layouts.data_of("mlp"), batch_size=16, shuffle=True)
        self.state = self.accelerator.prepare(model, ct.adamw(ct.one_cycle(1e-2, 20)), average=ct.ema(0.9))
        self._step = self.accelerator.train_step(layouts.loss_fn, **options)
        self._batches = self._forever()

    def losses(self, steps: int) -> list[str]:
        """Of the next steps, as the 64 bits that they are."""
        return [self._step(self.state, next(self._batches))["loss"].hex() for _ in range(steps)]

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.loader


def hand_over(
    backend: str, folder: Path, *, before: str | None, after: str, steps: int, mesh: dict[str, int] | None = None
) -> list[str]:
    """Restores what another part exported, on a mesh into a state made anew; trains, and exports for the next one."""
    part = Part(backend, mesh)
    if before is not None and mesh:
        part.state = part.accelerator.restore(folder / before, loader=part.loader)
    elif before is not None:
        part.accelerator.restore(folder / before, part.state, loader=part.loader)
    losses = part.losses(steps)
    part.accelerator.export(part.state, folder / after, loader=part.loader)
    return losses


def save(backend: str, folder: Path) -> dict[str, Any]:
    """Two native checkpoints, and the losses that follow the second."""
    part = Part(backend)
    checkpoints = Checkpoints(part.accelerator, folder / "run")
    for _ in range(2):
        part.losses(4)
        checkpoints.save(part.state, loader=part.loader)
    losses = part.losses(4)
    checkpoints.wait()
    steps = checkpoints.steps()
    checkpoints.close()
    return {"losses": losses, "steps": steps}


def resume(backend: str, folder: Path) -> dict[str, Any]:
    """Restores the newest whole checkpoint, and trains."""
    part = Part(backend)
    manifest = Checkpoints(part.accelerator, folder / "run").restore(part.state, loader=part.loader)
    assert manifest is not None
    return {"step": manifest.step, "losses": part.losses(4)}


def fail(backend: str, folder: Path, *, disk: str) -> dict[str, Any]:
    """What each process hears of places that cannot be written or read, and whether it goes on afterwards."""
    part, heard = Part(backend), {}
    (folder / "file").touch()
    elsewhere = Checkpoints(part.accelerator, folder / "file" / "run")
    heard["save"] = error_of(lambda: elsewhere.save(part.state))
    heard["export"] = error_of(lambda: part.accelerator.export(part.state, folder / "file" / "portable"))
    heard["export again"] = error_of(lambda: part.accelerator.export(part.state, folder))
    heard["restore"] = error_of(lambda: part.accelerator.restore(folder / "none", part.state))
    # Only this process sees the checkpoint under this name.
    own = folder / f"only for {part.accelerator.process_index}"
    part.accelerator.export(part.state, folder / "only for 0")
    heard["restore on one"] = error_of(lambda: part.accelerator.restore(own, part.state, loader=part.loader))
    checkpoints = Checkpoints(part.accelerator, Path(disk) / "run")
    checkpoints.save(part.state)
    checkpoints.wait()
    part.losses(1)
    part.accelerator.on_main_process(fill)(Path(disk))
    heard["full disk"] = error_of(lambda: (checkpoints.save(part.state), checkpoints.wait()))
    heard["export to a full disk"] = error_of(lambda: part.accelerator.export(part.state, Path(disk) / "portable"))
    steps = [checkpoints.steps()]
    part.accelerator.on_main_process((Path(disk) / "filler").unlink)()
    part.accelerator.on_main_process(leave_one_file)(Path(disk))
    heard["no more files"] = error_of(lambda: (checkpoints.save(part.state), checkpoints.wait()))
    part.accelerator.on_main_process(shutil.rmtree)(Path(disk) / "files")
    checkpoints.save(part.state)
    checkpoints.close()
    return {"heard": heard, "steps": [*steps, checkpoints.steps()], "losses": part.losses(1)}


class Leave(Callback):
    """One process meets an exception; the others do not."""

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        if run.state.step == 5 and not run.is_main_process:
            raise RuntimeError("left alone")


def leave(backend: str, folder: Path) -> None:
    """A run whose second process ends by an exception after some saves."""
    part = Part(backend)
    spec = ct.CheckpointSpec(root=folder / "run", every_steps=2)
    trainer = ct.Trainer(part.accelerator, part.state, layouts.loss_fn, callbacks=[Leave()], progress=False)
    trainer.fit(part.loader, epochs=20, checkpoints=spec)


def fill(disk: Path) -> None:
    """Leaves no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            return


def leave_one_file(disk: Path) -> None:
    """Leaves room for the directory of a save, and for nothing in it."""
    for left in (disk / "run").glob(".step*"):
        shutil.rmtree(left)
    (disk / "files").mkdir()
    numbers = itertools.count()
    with contextlib.suppress(OSError):
        while True:
            (disk / "files" / str(next(numbers))).touch()
    (disk / "files" / "0").unlink()


def error_of(attempt: Any) -> str:
    try:
        attempt()
    except ct.CheckpointError as error:
        return f"{error}"
    return "nothing"


SCENARIOS = {function.__name__: function for function in (hand_over, save, resume, fail, leave)}


def main(job: str, *place: str) -> None:
    values = json.loads(job)
    if place:
        import jax

        processes, index, port = map(int, place)
        jax.config.update("jax_num_cpu_devices", values["devices"])
        if processes > 1:
            jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    folder = Path(values["folder"])
    found = SCENARIOS[values["scenario"]](values["backend"], folder, **values["options"])
    accelerator = ct.Accelerator(values["backend"], precision="fp64")
    (folder / f"{values['scenario']}-{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.wait_for_everyone()
    # At interpreter exit a process that is done may abort the others.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
