"""What callbacks had seen before a resume: early stopping counts on, the best model stays best, and so do a user's."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import BestModel, EarlyStopping, Record, Run
from crosstrain.checkpoint import Checkpoints
from crosstrain.checkpoint.folders import folder_of
from crosstrain.checkpoint.manifest import read_manifest

from .tasks import ADAM, DROPOUT_MLP, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]


class Interrupted(ct.Callback):
    """Raises once, after a step or after its evaluation; keeps the losses of all steps."""

    def __init__(self, *, step: int = 0, evaluation: int = 0) -> None:
        self._step, self._evaluation = step, evaluation
        self.losses: list[tuple[int, float]] = []

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self.losses.append((run.state.step, metrics["loss"]))
        if run.state.step == self._step:
            raise KeyError("power")

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        if record.step == self._evaluation:
            raise KeyError("power")


class Scripted(ct.Callback):
    """Gives the evaluation of each epoch a known value, whatever process it is in."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        record.values["score"] = self._values[run.epoch]


def fit(make: Make, root: Path | None, epochs: int, *callbacks: ct.Callback, **spec: Any) -> ct.Trainer:
    """A fresh process's part of a run, five steps an epoch; an interruption is its end."""
    accelerator = make()
    state = prepared(accelerator, DROPOUT_MLP, ADAM)
    trainer = ct.Trainer(accelerator, state, loss_fn, callbacks=callbacks, progress=False)
    loader = accelerator.loader(images(20), batch_size=4, shuffle=True)
    evaluation = accelerator.loader(images(8), batch_size=4)
    saving = {"checkpoints": ct.CheckpointSpec(root=root, **spec), "resume": "auto"} if root else {}
    try:
        trainer.fit(loader, epochs=epochs, eval_loader=evaluation, **saving)
    except KeyError:
        assert root is not None
    return trainer


def stopping(patience: int = 2) -> EarlyStopping:
    return EarlyStopping("score", patience=patience)


@pytest.mark.parametrize(
    ("values", "more"),
    [((3.0, 2.0, 2.5, 2.0), 2), ((math.nan, math.nan), 5), ((-math.inf, -math.inf, 1.0), 2)],
    ids=["values", "nan", "infinity"],
)
def test_a_run_that_stopped_early_stays_ended(make: Make, tmp_path: Path, values: tuple[float, ...], more: int) -> None:
    script = Scripted(*values, *[4.0] * 5)
    for _ in range(3):
        trainer = fit(make, tmp_path, 9, script, stopping())
        assert trainer.state.step == 5 * len(values)
        assert trainer.history.stop_reason == "score has not improved for 2 evaluations"
    assert fit(make, tmp_path, 9, script, stopping(patience=4)).state.step == 5 * (len(values) + more)


@pytest.mark.parametrize("when", [{"step": 12}, {"evaluation": 15}], ids=["step", "evaluation"])
def test_early_stopping_counts_on(make: Make, tmp_path: Path, when: dict[str, int]) -> None:
    """An evaluation that was interrupted, and is repeated, counts once."""
    script = Scripted(3.0, 2.0, 2.5, 2.1, 2.2, 2.3)
    fit(make, tmp_path, 6, script, stopping(), Interrupted(**when))
    assert fit(make, tmp_path, 6, script, stopping()).state.step == 20


def test_another_metric_is_watched_from_anew(make: Make, tmp_path: Path) -> None:
    script = Scripted(1.0, 2.0, 3.0, 4.0)
    fit(make, tmp_path, 4, script, stopping())
    assert fit(make, tmp_path, 4, script, EarlyStopping("score", mode="max")).state.step == 20


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_model_of_a_resumed_run_is_that_of_the_whole_run(make: Make, tmp_path: Path, best: int) -> None:
    """It may be from before the resume, the state that was resumed, or from after it; training goes on bit for bit."""
    script = Scripted(*(float(epoch != best) for epoch in range(4)))
    watch, rest = Interrupted(), Interrupted()
    whole = fit(make, None, 4, script, BestModel("score"), watch)
    fit(make, tmp_path, 4, script, BestModel("score"), Interrupted(step=11), on_exception=False)
    resumed = fit(make, tmp_path, 4, script, BestModel("score"), rest, keep_best=ct.Best("score"))
    assert rest.losses == watch.losses[10:]
    assert resumed.state.step == whole.state.step == 5 * (best + 1)
    assert worst(dict(resumed.state.snapshot().params), dict(whole.state.snapshot().params)) == 0
    # Started once more it has nothing to train, and ends with the same weights.
    again = fit(make, tmp_path, 4, script, BestModel("score"))
    assert again.state.step == whole.state.step
    assert worst(dict(again.state.snapshot().params), dict(whole.state.snapshot().params)) == 0


def test_a_best_model_that_is_gone_is_named(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = Scripted(0.0, 3.0, 1.0, 2.0)
    fit(make, tmp_path, 4, script, BestModel("score"), Interrupted(step=11), keep_last=1)
    assert Checkpoints(make(), tmp_path).steps() == [11]
    with caplog.at_level(logging.WARNING, "crosstrain"):
        trainer = fit(make, tmp_path, 4, script, BestModel("score"))
    assert trainer.state.step == 15
    assert "the best evaluation so far was at optimizer step 5, whose state is gone: " in caplog.text
    assert "keep_best=ct.Best('score', 'min') in CheckpointSpec keeps it." in caplog.text


def test_the_best_by_a_metric_that_is_not_there_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ct.ConfigError, match="one that the evaluation reports, got metric='acc'"):
        fit(make, tmp_path, 2, keep_best=ct.Best("acc", "max"))


def test_a_run_without_evaluations_says_that_nothing_is_watched(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator = make()
    state, loader = prepared(accelerator, DROPOUT_MLP, ADAM), accelerator.loader(images(20), batch_size=4)
    callbacks = [EarlyStopping("score"), BestModel()]
    trainer = ct.Trainer(accelerator, state, loss_fn, callbacks=callbacks, progress=False)
    with caplog.at_level(logging.WARNING, logger="crosstrain"):
        trainer.fit(loader, epochs=2, checkpoints=ct.CheckpointSpec(root=tmp_path, keep_best=ct.Best("accuracy")))
    first, second, third = (record.getMessage() for record in caplog.records)
    assert first.startswith("EarlyStopping watches 'score' of the evaluations, and there are none")
    assert second.startswith("BestModel watches 'loss'")
    assert third.startswith("keep_best watches 'accuracy'")
    caplog.clear()
    fit(make, None, 1, BestModel())
    assert not caplog.records


class Diary(ct.Callback):
    """A user's callback, which begins anew with every `fit`."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    @property
    def state_key(self) -> str:
        return super().state_key + self._name

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "evaluations": self.evaluations, "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def on_fit_begin(self, run: Run) -> None:
        self.steps: list[int] = []
        self.evaluations: list[int] = []
        self.lowest = math.inf

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self.steps.append(run.state.step)

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        self.evaluations.append(record.step)
        self.lowest = min(self.lowest, record.values["score"])


@pytest.mark.parametrize(
    "when", [{"step": 7}, {"step": 10}, {"evaluation": 10}], ids=["step", "last step", "evaluation"]
)
def test_a_callback_of_a_user_goes_on_with_its_state(make: Make, tmp_path: Path, when: dict[str, int]) -> None:
    """What it noted in an evaluation that is repeated, or in steps after the save, is noted once."""
    script, diary = Scripted(3.0, 2.0, 2.5), Diary()
    fit(make, tmp_path, 3, script, Diary(), Interrupted(**when))
    fit(make, tmp_path, 3, script, diary)
    assert diary.steps == list(range(1, 16))
    assert diary.evaluations == [5, 10, 15]
    assert diary.lowest == 2.0
    again = Diary()
    fit(make, tmp_path, 3, script, again)
    assert (again.steps, again.evaluations) == (diary.steps, diary.evaluations)


def test_a_state_is_that_of_its_save(make: Make, tmp_path: Path) -> None:
    """Training changes it while the save goes on."""
    fit(make, tmp_path, 3, Scripted(3.0, 2.0, 2.5), Diary(), every_steps=1, every_epoch=False, keep_last=20)
    for step in range(1, 16):
        progress = read_manifest(folder_of(tmp_path, step)).progress
        (kept,) = progress["callbacks"]
        assert kept["key"] == "Diary"
        assert json.loads(kept["state"])["steps"] == list(range(1, step + 1))


def test_each_callback_has_its_own_state(make: Make, tmp_path: Path) -> None:
    """By key, and those with one key in order; a new one begins anew."""
    script = Scripted(3.0, 2.0, 2.5, 1.0)
    fit(make, tmp_path, 1, script, Diary("a"), stopping(4), Interrupted(step=99))
    late, first, second = Diary("b"), Diary("a"), Diary("a")
    fit(make, tmp_path, 2, script, late, first, stopping(4), second)
    assert [each.steps[0] for each in (late, first, second)] == [6, 1, 6]
    late, first, second = Diary("b"), Diary("a"), Diary("a")
    fit(make, tmp_path, 3, script, second, stopping(4), late, first)
    assert [each.steps[0] for each in (late, second, first)] == [6, 1, 6]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"lowest": np.float32(1)}, "Object of type float32 is not JSON serializable"),
        ([1], "got: Object of type list"),
        (None, "got: Object of type NoneType"),
    ],
)
def test_a_state_that_cannot_be_kept_is_refused_before_training(
    make: Make, tmp_path: Path, state: Any, message: str
) -> None:
    class Odd(ct.Callback):
        def state_dict(self) -> dict[str, Any]:
            return state

    with pytest.raises(ct.CheckpointError, match="state_dict of Odd must give a dict of what JSON can hold") as caught:
        fit(make, tmp_path, 1, Scripted(1.0), Odd(), watch := Interrupted())
    assert message in str(caught.value)
    assert not watch.losses
