"""Several steps in one call of the compiled step: the same run, with events at the end of each call."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import Record, Run
from crosstrain.checkpoint import Saver

from .tasks import DROPOUT_MLP, RESNET9, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]
LAYERS = (ct.LayerGroup(match=r"^layers\.0", frozen=((5, 6),)),)
OPTIMIZER = ct.adamw(ct.one_cycle(1e-2, 18), weight_decay=0.1)
FEW = 1e-12


class Events(ct.Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.logged: list[int] = []
        self.ends: list[tuple[int, int]] = []

    def on_step_begin(self, run: Run, batch: Any) -> None:
        assert run.state.step == run.taken[0]
        self.calls.append(tuple(run.taken))

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self.ends.append((run.step, run.state.step))

    def on_log(self, run: Run, record: Record) -> None:
        self.logged.append(record.step)


def trained(accelerator: ct.Accelerator, config: Any, count: int, *callbacks: ct.Callback, **options: Any) -> Any:
    """By default two epochs of nine steps, the last batch of each half empty."""
    optimizer = options.pop("optimizer", OPTIMIZER)
    state = prepared(accelerator, config, optimizer, average=ct.ema(0.9))
    trainer = ct.Trainer(
        accelerator,
        state,
        loss_fn,
        clip_norm=1.0,
        log_every=1,
        progress=False,
        callbacks=callbacks,
        steps_per_call=count,
    )
    loader = accelerator.loader(images(68), batch_size=8, shuffle=True)
    trainer.fit(loader, **{"epochs": 2, **options})
    return trainer


@pytest.mark.parametrize(
    "config", [pytest.param(DROPOUT_MLP, id="mlp"), pytest.param(RESNET9, id="resnet9", marks=pytest.mark.slow)]
)
def test_calls_of_several_steps_train_as_single_steps_do(make: Make, config: Any) -> None:
    one, several = (trained(make(), config, count) for count in (1, 4))
    for name in ("loss", "accuracy", "learning_rate"):
        np.testing.assert_allclose(several.history.values(name), one.history.values(name), rtol=FEW, atol=0)
    assert [record.step for record in several.history.train] == list(range(1, 19))
    first, second = one.state.snapshot(), several.state.snapshot()
    assert first.step == second.step == 18
    assert worst(first.params, second.params) <= FEW
    assert worst(first.averages, second.averages) <= FEW


def test_layers_may_thaw_between_the_steps_of_a_call(make: Make) -> None:
    optimizer = replace(ct.adamw(1e-2), layers=LAYERS)
    one, several = (trained(make(), DROPOUT_MLP, count, optimizer=optimizer) for count in (1, 4))
    assert worst(one.state.snapshot().params, several.state.snapshot().params) <= FEW


def test_events_come_once_for_each_call_and_logs_for_each_step(make: Make) -> None:
    events, recorder = Events(), ct.callbacks.Recorder()
    trainer = trained(make(), DROPOUT_MLP, 4, events, recorder, epochs=None, steps=15)
    # A call never reaches into the next epoch, nor beyond the last step.
    sizes = [range(4), range(4, 8), range(8, 9), range(9, 13), range(13, 15)]
    assert events.calls == [tuple(each) for each in sizes]
    assert events.ends == [(each.stop, each.stop) for each in sizes]
    assert events.logged == recorder.steps == list(range(1, 16))
    assert recorder.rates == [OPTIMIZER.learning_rate(step) for step in range(15)]
    assert trainer.history.values("learning_rate").tolist() == recorder.rates


def test_a_run_goes_on_from_what_was_saved_at_the_end_of_a_call(make: Make, tmp_path: Path) -> None:
    whole = trained(make(), DROPOUT_MLP, 4)
    spec = ct.CheckpointSpec(root=tmp_path, every_steps=6, every_epoch=False)
    trained(make(), DROPOUT_MLP, 4, epochs=None, steps=13, checkpoints=spec)
    saved = sorted(int(each.name.removeprefix("step_")) for each in tmp_path.glob("step_*"))
    assert saved == [8, 13]  # the first ends of calls at or after steps 6 and 12
    rest = trained(make(), DROPOUT_MLP, 4, checkpoints=spec, resume="auto")
    assert rest.history.values("loss").tolist() == whole.history.values("loss").tolist()[13:]
    assert worst(rest.state.snapshot().params, whole.state.snapshot().params) == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_what_was_taken_of_a_call_is_not_saved_with_the_position_at_its_end(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    """Its batches are read together; an interrupt between its steps leaves the loader ahead of the state."""
    accelerator = make()
    state = prepared(accelerator, DROPOUT_MLP)
    trainer = ct.Trainer(accelerator, state, loss_fn, progress=False)
    loader, step = accelerator.loader(images(64), batch_size=8), accelerator.train_step(loss_fn)
    run = Run(trainer, state, is_main_process=True, batch_size=8, epochs=1, total_steps=8, taken=range(3))
    saver = Saver(accelerator, loader, ct.CheckpointSpec(root=tmp_path))
    saver.on_fit_begin(run)
    for batch in next(loader.stacks(3, None))[:steps]:
        step(state, batch)
    with caplog.at_level(logging.WARNING, "crosstrain"):
        saver.on_exception(run, KeyboardInterrupt())
    saver.on_fit_end(run)
    assert saver.checkpoints.steps() == ([] if steps == 1 else [3])
    assert ("it came after step 1 of a call that goes to step 3" in caplog.text) == (steps == 1)


def test_a_loss_that_is_not_finite_is_found_and_named(make: Make) -> None:
    accelerator = make(nan_policy="raise")
    state, step = prepared(accelerator, DROPOUT_MLP), accelerator.train_step(loss_fn)
    batches = [images(8, seed) for seed in range(4)]
    batches[2]["image"] = np.full_like(batches[2]["image"], np.nan)
    with pytest.raises(ct.NonFiniteLossError) as found:
        step.many(state, batches)
    assert found.value.step == 2
    assert state.step == 4


def test_unequal_batches_are_single_calls(make: Make) -> None:
    accelerator = make()
    state, step = prepared(accelerator, DROPOUT_MLP), accelerator.train_step(loss_fn)
    assert len(step.many(state, [images(8), images(12)])) == state.step == 2
    assert step.many(state, []) == []


def test_a_count_below_one_is_refused(make: Make) -> None:
    accelerator = make()
    with pytest.raises(ct.ConfigError, match="steps_per_call must be"):
        ct.Trainer(accelerator, prepared(accelerator, DROPOUT_MLP), loss_fn, steps_per_call=0)


@pytest.mark.parametrize("engine", ["jax"])
def test_two_programs_serve_every_call_of_one_structure(engine: str) -> None:
    accelerator = ct.Accelerator(engine)
    trainer = trained(accelerator, DROPOUT_MLP, 4)
    loader = accelerator.loader(images(68), batch_size=8, shuffle=True)
    trainer.fit(loader, epochs=2)  # again: nothing is traced anew
    (program,) = trainer._step._run._programs._programs.values()
    assert program.jitted._cache_size() == program.jitted_many._cache_size() == 1
