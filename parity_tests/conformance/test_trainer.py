"""The loop, its callbacks, evaluation and prediction, on the real engines."""

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import crosstrain as ct
from crosstrain.callbacks import Record, Run
from crosstrain.checkpoint import Checkpoints
from crosstrain.data.order import EpochOrder
from crosstrain.progress import ProgressBar

from .tasks import MLP, RESNET9, images, logits_fn, loss_fn, prepared

Make = Callable[..., ct.Accelerator]


class Log(ct.Callback):
    """Writes down every event."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_fit_begin(self, run: Run) -> None:
        self.events.append(f"fit of {run.total_steps}")

    def on_epoch_begin(self, run: Run) -> None:
        self.events.append(f"epoch {run.epoch}")

    def on_step_begin(self, run: Run, batch: Any) -> None:
        self.events.append(f"begin {run.step}")

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self.events.append(f"step {run.step}")

    def on_log(self, run: Run, record: Record) -> None:
        self.events.append(f"log {record.step}")

    def on_evaluate_begin(self, run: Run) -> None:
        self.events.append("evaluate")

    def on_evaluate_end(self, run: Run, record: Record) -> None:
        self.events.append(f"evaluated {record.step}")

    def on_epoch_end(self, run: Run) -> None:
        self.events.append("epoch end")

    def on_exception(self, run: Run, error: BaseException) -> None:
        self.events.append(type(error).__name__)

    def on_fit_end(self, run: Run) -> None:
        self.events.append("fit end")


def trainer_of(accelerator: ct.Accelerator, *callbacks: ct.Callback, **options: Any) -> ct.Trainer:
    return ct.Trainer(
        accelerator,
        prepared(accelerator, MLP),
        options.pop("loss", loss_fn),
        callbacks=callbacks,
        **{"progress": False, **options},
    )


def test_events_come_in_order_and_logs_one_step_late(make: Make) -> None:
    accelerator, log = make(), Log()
    trainer = trainer_of(accelerator, log, log_every=2)
    loader = accelerator.loader(images(12), batch_size=4)
    history = trainer.fit(loader, epochs=2, eval_loader=accelerator.loader(images(8), batch_size=4))
    assert log.events == [
        *["fit of 6", "epoch 0", "begin 0", "step 1", "begin 1", "step 2", "begin 2", "log 2", "step 3"],
        *["evaluate", "evaluated 3", "epoch end"],
        *["epoch 1", "begin 3", "step 4", "begin 4", "log 4", "step 5", "begin 5", "step 6", "log 6"],
        *["evaluate", "evaluated 6", "epoch end", "fit end"],
    ]
    assert [record.step for record in history.train] == [2, 4, 6]
    assert set(history.evaluations[-1].values) == {"loss", "accuracy"}
    assert history.values("loss").shape == (3,)
    assert history.train[0].values.keys() == {"loss", "accuracy", "learning_rate", "examples_per_second"}
    assert (history.values("examples_per_second") > 0).all()


def test_callbacks_have_an_event_in_the_order_in_which_they_were_given(make: Make) -> None:
    class Named(Log):
        def __init__(self, name: str, events: list[str]) -> None:
            self.name, self.events = name, events

        def on_epoch_end(self, run: Run) -> None:
            self.events.append(f"{self.name} sees the end")

    events: list[str] = []
    accelerator = make()
    trainer_of(accelerator, Named("second", events), Named("first", events)).fit(
        accelerator.loader(images(4), batch_size=4), epochs=1
    )
    assert [event for event in events if event.endswith("sees the end")] == [
        "second sees the end",
        "first sees the end",
    ]
    assert [event for event in events if event in ("epoch 0", "fit end")] == ["epoch 0"] * 2 + ["fit end"] * 2


def test_an_event_that_does_not_exist_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(ct.ConfigError, match=r"events must be among on_fit_begin, .*got on_batch_end in Wrong"):

        class Wrong(ct.Callback):
            def on_batch_end(self) -> None:
                """Never called."""


def test_fit_goes_on_where_it_stopped(make: Make) -> None:
    accelerator = make()
    trainer, loader = trainer_of(accelerator), accelerator.loader(images(12), batch_size=4)
    trainer.fit(loader, steps=2)
    trainer.fit(loader, steps=3)
    assert trainer.state.step == 5
    assert [record.step for record in trainer.history.train] == [2, 5]


def test_a_callback_stops_training(make: Make) -> None:
    class Stop(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            if run.step == 2:
                run.stop("enough")

    accelerator, log = make(), Log()
    trainer_of(accelerator, Stop(), log).fit(accelerator.loader(images(12), batch_size=4), epochs=5)
    assert log.events[-2:] == ["epoch end", "fit end"]
    assert log.events.count("epoch end") == 1


def test_an_exception_reaches_callbacks_and_caller(make: Make) -> None:
    class Fail(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            raise KeyError("callback")

    accelerator, log = make(), Log()
    with pytest.raises(KeyError, match="callback"):
        trainer_of(accelerator, Fail(), log).fit(accelerator.loader(images(4), batch_size=4), epochs=1)
    assert log.events[-2:] == ["KeyError", "fit end"]


class Raising(ct.Callback):
    """Raises in some of the events, in words of its own."""

    def __init__(self, *events: str) -> None:
        self._events = events

    def _raise(self, event: str) -> None:
        if event in self._events:
            raise ValueError(f"bad {event}")

    def on_fit_begin(self, run: Run) -> None:
        self._raise("on_fit_begin")

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self._raise("on_step_end")

    def on_exception(self, run: Run, error: BaseException) -> None:
        self._raise("on_exception")

    def on_fit_end(self, run: Run) -> None:
        self._raise("on_fit_end")


@pytest.mark.parametrize(
    ("events", "first", "heard"),
    [
        (("on_fit_end",), "bad on_fit_end", ["fit end"]),
        (("on_step_end", "on_exception"), "bad on_step_end", ["ValueError", "fit end"]),
        (("on_fit_begin", "on_exception", "on_fit_end"), "bad on_fit_begin", ["ValueError", "fit end"]),
    ],
    ids=["end", "exception", "begin"],
)
def test_the_last_events_reach_all_and_the_first_error_stays(
    make: Make, tmp_path: Path, events: tuple[str, ...], first: str, heard: list[str]
) -> None:
    """Later errors are its notes, handlers and the lock are let go of, and what was saved resumes."""
    accelerator, log, handler = make(), Log(), signal.getsignal(signal.SIGTERM)
    loader, spec = accelerator.loader(images(12), batch_size=4), ct.CheckpointSpec(root=tmp_path)
    with pytest.raises(ValueError, match=f"^{first}") as caught:
        trainer_of(accelerator, Raising(*events), log).fit(loader, epochs=1, checkpoints=spec)
    assert log.events[-len(heard) :] == heard
    later = [event for event in events if f"bad {event}" != first]
    assert getattr(caught.value, "__notes__", []) == [
        f"Afterwards Raising.{event} raised ValueError: bad {event}" for event in later
    ]
    assert signal.getsignal(signal.SIGTERM) == handler
    steps = {"bad on_fit_end": [3], "bad on_step_end": [1], "bad on_fit_begin": []}
    assert Checkpoints(accelerator, tmp_path).steps() == steps[first]
    again = trainer_of(accelerator)
    again.fit(accelerator.loader(images(12), batch_size=4), epochs=2, checkpoints=spec, resume="auto")
    assert again.state.step == 6


def test_evaluation_over_99_examples_counts_99(make: Make) -> None:
    accelerator, data = make(), images(99)
    trainer = trainer_of(accelerator)
    found = trainer.evaluate(accelerator.loader(data, batch_size=32))
    evaluate = accelerator.eval_step(loss_fn)
    singles = [evaluate(trainer.state, {name: values[i : i + 1] for name, values in data.items()}) for i in range(99)]
    for name in ("loss", "accuracy"):
        assert found[name] == pytest.approx(np.mean([metrics[name] for metrics in singles]), rel=1e-12)
    assert found["accuracy"] * 99 == pytest.approx(round(found["accuracy"] * 99), abs=1e-9)


def test_prediction_gives_every_example_once_in_order(make: Make) -> None:
    accelerator, data = make(), images(99)
    trainer = trainer_of(accelerator)
    found = trainer.predict(accelerator.loader(data, batch_size=32), lambda m, b, ops: {"y": m(b["image"])})
    assert found.keys() == {"y"}
    assert found["y"].shape == (99, 10)
    one = accelerator.predict_step(logits_fn)(trainer.state, {"image": data["image"][98:]})
    assert found["y"][98:] == pytest.approx(one["prediction"], rel=1e-12)


def test_evaluating_does_not_change_the_order_of_training(make: Make) -> None:
    accelerator = make()
    loader = accelerator.loader(images(12), batch_size=4, shuffle=True)
    trainer_of(accelerator).evaluate(loader)
    assert loader.epoch == 0


def test_an_iterable_without_length_trains_by_steps(make: Make) -> None:
    class Stream:
        def __iter__(self) -> Any:
            data = images(10)
            return iter([{name: values[i] for name, values in data.items()} for i in range(10)])

    accelerator = make()
    trainer = trainer_of(accelerator)
    trainer.fit(accelerator.loader(Stream(), batch_size=4), steps=7)
    assert trainer.state.step == 7


def test_the_last_step_is_logged_also_where_it_was_not_known_before(make: Make) -> None:
    class Stop(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            if run.step == 5:
                run.stop("enough")

    class Examples:
        def __iter__(self) -> Any:
            source = images(12)
            return ({name: values[index] for name, values in source.items()} for index in range(12))

    for callbacks, source, last in (((Stop(),), images(32), 5), ((), Examples(), 6)):
        accelerator = make()
        history = trainer_of(accelerator, *callbacks, log_every=4).fit(
            accelerator.loader(source, batch_size=4), epochs=2
        )
        assert [record.step for record in history.train] == [4, last]


def test_batches_follow_the_order_that_core_defines(make: Make) -> None:
    accelerator = make(seed=3)
    data = {"index": np.arange(50, dtype=np.int32)}
    loader = accelerator.loader(data, batch_size=8, shuffle=True)
    for epoch in range(2):
        expected = EpochOrder(50, 8, 8, order=(3, epoch), drop_last=False).batches()
        for batch, rows in zip(loader, expected, strict=True):
            assert batch["index"].tolist() == rows.rows.tolist()
            assert batch["weight"].tolist() == [1.0] * rows.real + [0.0] * (8 - rows.real)


def test_progress_shows_loss_rate_speed_and_time_on_a_terminal(make: Make) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    accelerator = make()
    trainer = trainer_of(accelerator, ProgressBar("train", console), log_every=1)
    trainer.fit(
        accelerator.loader(images(16), batch_size=4), epochs=1, eval_loader=accelerator.loader(images(4), batch_size=4)
    )
    shown = console.file.getvalue()
    for part in ("train", "loss", "lr 1.00e-01", "examples/s", "4/4", "0:00:00"):
        assert part in shown


def test_progress_is_quiet_where_there_is_no_terminal(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    accelerator = make()
    trainer_of(accelerator, progress=True).fit(accelerator.loader(images(8), batch_size=4), epochs=1)
    assert capfd.readouterr() == ("", "")


def test_progress_is_quiet_on_other_processes(make: Make) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    bar, trainer = ProgressBar("train", console), trainer_of(make())
    run = Run(trainer=trainer, state=trainer.state, is_main_process=False, batch_size=4, epochs=1, total_steps=2)
    bar.on_fit_begin(run)
    bar.on_log(run, Record(step=1, epoch=0, values={"loss": 1.0, "learning_rate": 0.1}))
    bar.on_fit_end(run)
    assert console.file.getvalue() == ""


def test_one_cycle_trains_a_resnet_to_the_same_curve_twice(make: Make) -> None:
    def curve() -> list[float]:
        accelerator = make(precision="fp32")
        loader = accelerator.loader(images(64), batch_size=16, shuffle=True)
        state = prepared(accelerator, RESNET9, ct.sgd(ct.one_cycle(0.1, 8), momentum=0.9, nesterov=True))
        trainer = ct.Trainer(accelerator, state, loss_fn, log_every=1, progress=False)
        return trainer.fit(loader, epochs=2).values("loss").tolist()

    assert curve() == curve()
