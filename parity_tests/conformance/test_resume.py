"""`Trainer.fit` saves and resumes: in the middle of an epoch, by steps, after an exception, and when it was done."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import Callback, Record, Run
from crosstrain.checkpoint import Checkpoints
from crosstrain.checkpoint.manifest import read_manifest
from crosstrain.metrics import Metrics

from .tasks import ADAM, DROPOUT_MLP, images, loss_fn, prepared

Make = Callable[..., ct.Accelerator]
EXAMPLES, BATCH = 40, 8  # five steps an epoch


class Losses(Callback):
    """Keeps every loss, and raises in a step when told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.losses: list[tuple[int, float]] = []
        self.evaluated: list[int] = []
        self.epochs: list[int] = []
        self._fail_at = fail_at

    def on_epoch_begin(self, run: Run) -> None:
        self.epochs.append(run.epoch)

    def on_step_end(self, run: Run, metrics: Metrics) -> None:
        self.losses.append((run.state.step, metrics["loss"]))
        if run.state.step == self._fail_at:
            raise RuntimeError("the power went out")

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        self.evaluated.append(record.step)


def fit(make: Make, root: Path | None, fail_at: int | None = None, **options: Any) -> Losses:
    """A fresh process's part of a run: everything is made anew."""
    accelerator = make()
    loader = accelerator.loader(images(EXAMPLES), batch_size=BATCH, shuffle=True)
    losses = Losses(fail_at)
    trainer = ct.Trainer(
        accelerator, prepared(accelerator, DROPOUT_MLP, ADAM), loss_fn, callbacks=[losses], progress=False
    )
    spec = {"checkpoints": ct.CheckpointSpec(root=root, **options.pop("spec", {})), "resume": "auto"} if root else {}
    evaluation = accelerator.loader(images(10), batch_size=5)
    trainer.fit(loader, **{"epochs": 3, "eval_loader": evaluation, **spec, **options})
    return losses


@pytest.mark.parametrize("fail_at", [1, 5, 7])
@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 13}], ids=["epochs", "steps"])
def test_a_run_goes_on_after_an_exception(make: Make, tmp_path: Path, fail_at: int, length: dict[str, int]) -> None:
    """The step that raised was taken and saved."""
    whole = fit(make, None, **(length if "epochs" in length else {"epochs": None, **length}))
    options = length if "epochs" in length else {"epochs": None, **length}
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(make, tmp_path, fail_at=fail_at, **options)
    rest = fit(make, tmp_path, **options)
    assert rest.losses == whole.losses[fail_at:]
    assert rest.evaluated[-1] == whole.evaluated[-1] == whole.losses[-1][0]


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_an_exception_while_metrics_are_read_costs_no_step(make: Make, tmp_path: Path, steps_per_call: int) -> None:
    class Interrupted(Callback):
        interrupts = True

        def on_log(self, run: Run, record: Record) -> None:
            if self.interrupts and record.step == 4:
                raise KeyboardInterrupt

    def run(callback: Callback, **options: Any) -> ct.Trainer:
        accelerator = make()
        loader = accelerator.loader(images(EXAMPLES), batch_size=BATCH, shuffle=True)
        state = prepared(accelerator, DROPOUT_MLP, ADAM)
        trainer = ct.Trainer(
            accelerator,
            state,
            loss_fn,
            log_every=2,
            steps_per_call=steps_per_call,
            callbacks=[callback],
            progress=False,
        )
        try:
            trainer.fit(loader, steps=12, **options)
        except KeyboardInterrupt:
            assert state.step > 4
        return trainer

    whole, saving = run(Callback()), {"checkpoints": ct.CheckpointSpec(root=tmp_path), "resume": "auto"}
    interrupted = Interrupted()
    run(interrupted, **saving)
    interrupted.interrupts = False
    rest = run(interrupted, **saving)
    assert rest.state.step == 12
    assert rest.history.values("loss")[-3:].tolist() == whole.history.values("loss")[-3:].tolist()


def test_resume_goes_on_and_never_starts_anew(make: Make, tmp_path: Path) -> None:
    whole = fit(make, None)
    accelerator = make()
    loader = accelerator.loader(images(EXAMPLES), batch_size=BATCH, shuffle=True)
    losses, spec = Losses(), ct.CheckpointSpec(root=tmp_path)
    trainer = ct.Trainer(
        accelerator, prepared(accelerator, DROPOUT_MLP, ADAM), loss_fn, callbacks=[losses], progress=False
    )
    with pytest.raises(ct.CheckpointError, match=f"got root='{tmp_path}' without one"):
        trainer.resume(loader, epochs=3, checkpoints=spec)
    assert trainer.state.step == 0
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(make, tmp_path, fail_at=7)
    trainer.resume(loader, epochs=3, checkpoints=spec)
    assert losses.losses == whole.losses[7:]


def test_without_a_save_at_the_exception_the_last_multiple_counts(make: Make, tmp_path: Path) -> None:
    spec = {"every_steps": 3, "on_exception": False}
    whole = fit(make, None)
    with pytest.raises(RuntimeError):
        fit(make, tmp_path, fail_at=8, spec=spec)
    assert fit(make, tmp_path, spec=spec).losses == whole.losses[6:]


def test_auto_falls_back_to_the_newest_whole_one_and_says_so(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(make, None, epochs=2)
    fit(make, tmp_path, epochs=1, spec={"every_steps": 2})
    folder = tmp_path / "step_00000005"
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)
    with caplog.at_level(logging.INFO, "crosstrain"):
        rest = fit(make, tmp_path, epochs=2)
    assert rest.losses == whole.losses[4:]
    assert f"passing over a damaged checkpoint: {largest} must have" in caplog.text
    assert "resumed at optimizer step 4 from" in caplog.text


def test_a_second_job_is_refused_before_its_first_step(make: Make, tmp_path: Path) -> None:
    first = Checkpoints(make(), tmp_path)
    first.prepare(prepared(make(), DROPOUT_MLP, ADAM))
    accelerator = make()
    state = prepared(accelerator, DROPOUT_MLP, ADAM)
    trainer = ct.Trainer(accelerator, state, loss_fn, progress=False)
    loader = accelerator.loader(images(EXAMPLES), batch_size=BATCH)
    with pytest.raises(ct.CheckpointError, match="only one job may write to"):
        trainer.fit(loader, epochs=1, checkpoints=ct.CheckpointSpec(root=tmp_path))
    assert state.step == 0
    first.close()
    trainer.fit(loader, epochs=1, checkpoints=ct.CheckpointSpec(root=tmp_path))
    assert Checkpoints(accelerator, tmp_path).steps() == [5]


def test_a_run_that_was_done_is_not_trained_further(make: Make, tmp_path: Path) -> None:
    for length in ({"epochs": 2}, {"epochs": None, "steps": 7}):
        root = tmp_path / str(len(length))
        assert len(fit(make, root, **length).losses) in (10, 7)
        assert fit(make, root, **length).losses == []


@pytest.mark.parametrize("spec", [{}, {"every_steps": 1, "every_epoch": False}], ids=["epochs", "steps"])
@pytest.mark.parametrize("length", [{"epochs": 2}, {"epochs": None, "steps": 10}, {"epochs": None, "steps": 7}])
def test_a_run_that_was_done_has_happened(
    make: Make, tmp_path: Path, length: dict[str, int | None], spec: dict[str, Any]
) -> None:
    """Its last epoch does not end again, and is not evaluated again; a longer run goes on with the next one."""
    first, again = fit(make, tmp_path, spec=spec, **length), fit(make, tmp_path, spec=spec, **length)
    assert first.evaluated == [5, first.losses[-1][0]]
    assert (again.losses, again.evaluated, again.epochs) == ([], [], [])
    longer = fit(make, tmp_path, spec=spec, **({"epochs": 3} if length["epochs"] else {"epochs": None, "steps": 13}))
    assert longer.losses[0][0] == first.losses[-1][0] + 1
    assert longer.evaluated == ([15] if length["epochs"] else [10, 13][first.losses[-1][0] == 10 :])


def test_the_last_evaluation_that_did_not_happen_is_made_up_for(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(make, tmp_path, fail_at=15)
    for evaluated in ([15], []):
        rest = fit(make, tmp_path)
        assert (rest.losses, rest.evaluated) == ([], evaluated)


def test_a_longer_run_goes_on_from_a_shorter_one(make: Make, tmp_path: Path) -> None:
    assert [step for step, _ in fit(make, tmp_path, epochs=1).losses] == list(range(1, 6))
    assert [step for step, _ in fit(make, tmp_path, epochs=2).losses] == list(range(6, 11))


def test_the_best_evaluation_stays(make: Make, tmp_path: Path) -> None:
    fit(make, tmp_path, epochs=5, spec={"keep_last": 1, "keep_best": ct.Best("loss", "max")})
    checkpoints = Checkpoints(make(), tmp_path)
    steps = checkpoints.steps()
    assert steps[-1] == 25
    assert len(steps) <= 2


def test_only_a_state_that_was_evaluated_has_the_metrics_of_it(make: Make, tmp_path: Path) -> None:
    """Five steps an epoch: no save at a multiple of three is of the state that was evaluated before it."""
    between = {"every_steps": 3, "every_epoch": False, "keep_last": 9}
    for folder, more, steps in (("plain", {}, []), ("best", {"keep_best": ct.Best("loss")}, [5, 10])):
        fit(make, tmp_path / folder, epochs=2, spec=between | more)
        checkpoints = Checkpoints(make(), tmp_path / folder)
        found = {step: read_manifest(checkpoints.root / f"step_{step:08d}") for step in checkpoints.steps()}
        assert list(found) == sorted([3, 6, 9, *steps])
        assert [step for step, manifest in found.items() if manifest.metrics] == steps


def test_saving_by_the_clock(make: Make, tmp_path: Path) -> None:
    fit(make, tmp_path, epochs=1, spec={"every_s": 1e-9, "every_epoch": False, "keep_last": 9})
    assert Checkpoints(make(), tmp_path).steps() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": "auto"}, "resume must be None, or 'auto' together with checkpoints"),
        ({"resume": "latest"}, "got resume='latest'"),
        ({"checkpoints": "runs"}, "checkpoints must be an instance of CheckpointSpec, got checkpoints='runs'. Use"),
    ],
)
def test_resume_options(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        fit(make, None, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps must be at least 1, got every_steps=0"),
        ({"every_s": -1.0}, "every_s must be above 0 or None, got every_s=-1.0"),
        ({"every_s": "5"}, "every_s must be above 0 or None, got every_s='5'"),
        ({"signals": 3}, "signals must be names such as 'SIGTERM'.*got signals=3"),
        ({"signals": ("SIGNONE",)}, "signals must be names such as 'SIGTERM'"),
        ({"signals": ("SIGKILL",)}, "of signals that a process hears of, got signals="),
        ({"keep_last": 0}, "keep_last must be at least 1, got keep_last=0"),
        ({"keep_best": ct.Best("loss", count=0)}, "count must be at least 1, got count=0"),
        ({"keep_best": "loss"}, "keep_best must be an instance of Best, got keep_best='loss'"),
    ],
)
def test_checkpoint_specs_that_cannot_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        ct.CheckpointSpec(root=tmp_path, **options)


def test_another_batch_size_is_refused_and_changes_nothing(make: Make, tmp_path: Path) -> None:
    fit(make, tmp_path, epochs=1)
    accelerator = make()
    state = prepared(accelerator, DROPOUT_MLP, ADAM)
    before = state.snapshot().params
    loader = accelerator.loader(images(EXAMPLES), batch_size=4, shuffle=True)
    with pytest.raises(ct.CheckpointError, match="batch_size"):
        Checkpoints(accelerator, tmp_path).restore(state, loader=loader)
    assert all(np.array_equal(values, before[name]) for name, values in state.snapshot().params.items())
    assert loader.state_dict()["epoch"] == 0
