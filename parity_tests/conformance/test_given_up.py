"""Checkpoints of a run that was given up: what is saved is what the state is, and nothing of the old run is lost."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct
from crosstrain.callbacks import BestModel, Run
from crosstrain.checkpoint import Checkpoints

from .tasks import ADAM, MLP, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]


def trainer_of(accelerator: ct.Accelerator, *callbacks: ct.Callback) -> ct.Trainer:
    return ct.Trainer(accelerator, prepared(accelerator, MLP, ADAM), loss_fn, callbacks=callbacks, progress=False)


def fit(trainer: ct.Trainer, root: Path, *, seed: int = 0, spec: dict[str, Any] | None = None, **options: Any) -> None:
    """Five steps an epoch; another seed is another order."""
    loader = trainer.accelerator.loader(images(20), batch_size=4, shuffle=True, seed=seed)
    trainer.fit(
        loader,
        checkpoints=ct.CheckpointSpec(root=root, **(spec or {"every_steps": 2, "every_epoch": False})),
        **options,
    )


def apart(make: Make, root: Path, step: int, expected: ct.TrainState) -> float:
    """How far the newest checkpoint, which must be of `step`, is from a state."""
    accelerator = make()
    state = prepared(accelerator, MLP, ADAM)
    manifest = Checkpoints(accelerator, root).restore(state)
    assert manifest is not None
    assert manifest.step == step
    return worst(dict(state.snapshot().params), dict(expected.snapshot().params))


@pytest.mark.parametrize("steps", [4, 8])
def test_a_new_run_in_a_used_root_keeps_its_own_checkpoints(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    old = trainer_of(make())
    fit(old, tmp_path, steps=8)
    new = trainer_of(make())
    with caplog.at_level(logging.WARNING, "crosstrain"):
        fit(new, tmp_path, seed=1, steps=steps)
    assert apart(make, tmp_path, steps, new.state) == 0
    assert Checkpoints(make(), tmp_path).steps() == [2, 4, 6, 8][: steps // 2][-3:]
    assert apart(make, tmp_path / "set_aside_1", 8, old.state) == 0
    assert f"step 4, 6, 8 are damaged or of a run that was given up, and were moved to {tmp_path}/set_aside_1" in (
        caplog.text
    )


def test_a_new_run_that_saves_nothing_moves_nothing(make: Make, tmp_path: Path) -> None:
    class Leave(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            raise KeyError("power")

    old = trainer_of(make())
    fit(old, tmp_path, steps=4)
    with pytest.raises(KeyError, match="power"):
        fit(trainer_of(make(), Leave()), tmp_path, steps=4, spec={"on_exception": False})
    assert apart(make, tmp_path, 4, old.state) == 0
    assert not list(tmp_path.glob("set_aside_*"))


def test_training_on_from_the_best_model_replaces_what_came_after_it(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    trainer = trainer_of(accelerator, BestModel(mode="max"))  # the first evaluation, while the loss falls
    evaluation = accelerator.loader(images(20), batch_size=4)
    fit(trainer, tmp_path, epochs=3, eval_loader=evaluation, spec={"keep_last": 3})
    assert trainer.state.step == 5
    again = ct.Trainer(accelerator, trainer.state, loss_fn, progress=False)
    fit(again, tmp_path, seed=1, epochs=2, spec={"keep_last": 3})
    assert apart(make, tmp_path, 15, again.state) == 0
    assert Checkpoints(make(), tmp_path / "set_aside_1").steps() == [10, 15]


@pytest.mark.parametrize("how", ["array", "manifest"])
def test_a_damaged_checkpoint_is_written_anew(make: Make, tmp_path: Path, how: str) -> None:
    fit(trainer_of(make()), tmp_path, steps=6)
    folder = tmp_path / "step_00000006"
    files = [path for path in (folder / "native").rglob("*") if path.is_file()]
    path = folder / "checkpoint.json" if how == "manifest" else max(files, key=lambda each: each.stat().st_size)
    path.write_bytes(path.read_bytes()[:-3])
    trainer = trainer_of(make())
    fit(trainer, tmp_path, steps=6, resume="auto")
    assert apart(make, tmp_path, 6, trainer.state) == 0


def test_a_loop_that_goes_back_replaces_what_it_had_saved(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
    checkpoints = Checkpoints(accelerator, tmp_path)
    for seed in (0, 1):
        for _ in range(3):
            step(state, images(8, seed=seed))
            checkpoints.save(state)
        if seed == 0:
            checkpoints.wait()
            checkpoints.restore(state, step=1)
    checkpoints.close()
    assert checkpoints.steps() == [2, 3, 4]
    assert apart(make, tmp_path, 4, state) == 0
    assert Checkpoints(accelerator, tmp_path / "set_aside_1").steps() == [2, 3]


def test_a_step_of_another_run_is_replaced_by_the_first_save(make: Make, tmp_path: Path) -> None:
    """Without `prepare` nothing is known of where the run began."""
    states = []
    for seed in (0, 1):
        accelerator = make()
        state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
        step(state, images(8, seed=seed))
        checkpoints = Checkpoints(accelerator, tmp_path)
        checkpoints.save(state)
        checkpoints.save(state, config={"note": "only the manifest"})
        checkpoints.close()
        states.append(state)
    assert apart(make, tmp_path, 1, states[1]) == 0
    assert apart(make, tmp_path / "set_aside_1", 1, states[0]) == 0
    assert not (tmp_path / "set_aside_2").exists()
