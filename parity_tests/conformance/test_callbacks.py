"""The callbacks that come with crosstrain: the same on both engines, and none makes the device wait."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import (
    Averaged,
    BestModel,
    EarlyStopping,
    Mfu,
    NanGuard,
    Predictions,
    Profile,
    Record,
    Recorder,
    Run,
    Statistics,
    TextSamples,
    TimeBudget,
)
from crosstrain.training.figures import draw_record

from .tasks import GPT, MLP, images, logits_fn, loss_fn, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


def trainer_of(accelerator: ct.Accelerator, *callbacks: ct.Callback, **options: Any) -> ct.Trainer:
    state = prepared(
        accelerator, options.pop("config", MLP), options.pop("optimizer", None), **options.pop("state", {})
    )
    loss = options.pop("loss", loss_fn)
    return ct.Trainer(accelerator, state, loss, callbacks=callbacks, **{"progress": False, "log_every": 1, **options})


def scripted(values: list[float]) -> Callable[[ct.Trainer], None]:
    """Gives a trainer evaluations whose losses are known."""

    def script(trainer: ct.Trainer) -> None:
        left = iter(values)
        trainer.evaluate = lambda loader: {"loss": next(left)}  # type: ignore[method-assign]

    return script


def fit(trainer: ct.Trainer, epochs: int = 1, count: int = 8, **options: Any) -> ct.History:
    loader = trainer.accelerator.loader(images(count), batch_size=4)
    return trainer.fit(loader, epochs=epochs, **options)


def fit_scripted(make: Make, losses: list[float], *callbacks: ct.Callback) -> ct.Trainer:
    accelerator = make()
    trainer = trainer_of(accelerator, *callbacks)
    scripted(losses)(trainer)
    fit(trainer, epochs=len(losses), eval_loader=accelerator.loader(images(4), batch_size=4))
    return trainer


def test_early_stopping_waits_for_its_patience(make: Make) -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    trainer = fit_scripted(make, [3.0, 2.0, 1.95, 2.5, 1.0], stopping)
    assert len(trainer.history.evaluations) == 4
    assert trainer.history.stop_reason == "loss has not improved for 2 evaluations"
    assert (stopping.monitor.best, stopping.monitor.best_step) == (2.0, 4)


def test_the_best_model_is_put_back_with_its_step(make: Make) -> None:
    class Watch(ct.Callback):
        kept: dict[int, ct.Snapshot] = {}  # noqa: RUF012

        def on_evaluate_end(self, run: Run, record: Record) -> None:
            self.kept[record.step] = run.state.snapshot()

    watch = Watch()
    trainer = fit_scripted(make, [3.0, 1.0, math.nan, 2.0], BestModel(), watch)
    assert trainer.state.step == 4
    assert worst(dict(trainer.state.snapshot().params), dict(watch.kept[4].params)) == 0
    assert worst(dict(trainer.state.snapshot().params), dict(watch.kept[8].params)) > 0


def test_a_metric_that_is_not_evaluated_is_refused(make: Make) -> None:
    accelerator = make()
    trainer = trainer_of(accelerator, EarlyStopping("f1", mode="max"))
    with pytest.raises(ct.ConfigError, match="metric must be one that the evaluation reports, got metric='f1'"):
        fit(trainer, eval_loader=accelerator.loader(images(4), batch_size=4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience must be at least 1"),
        (lambda: EarlyStopping(mode="low"), "mode must be 'min' or 'max', got mode='low'"),
        (lambda: BestModel(min_delta=-1.0), "min_delta must be at least 0"),
        (lambda: TimeBudget(0.0), "seconds must be above 0"),
        (lambda: Statistics(0), "every must be at least 1"),
        (lambda: Mfu(0.0), "peak_flops_per_s must be above 0"),
        (lambda: Profile("x", steps=0), "steps must be at least 1"),
        (lambda: TextSamples([[]], length=1, context=1, decode=str), "prompts must be sequences"),
    ],
    ids=["patience", "mode", "min_delta", "seconds", "every", "flops", "steps", "prompts"],
)
def test_numbers_out_of_range_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        build()


def test_the_time_budget_ends_the_run(make: Make) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.5, 9.0])
    trainer = trainer_of(make(), TimeBudget(3.0, clock=lambda: next(clock)))
    history = fit(trainer, epochs=10)
    assert history.stop_reason == "the time budget of 3 s is spent"
    assert len(history.train) in (3, 4)


def test_the_nan_guard_ends_the_run_without_an_evaluation(make: Make) -> None:
    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.mean((model(batch["image"]) ** 2).mean(-1) * batch["scale"])

    accelerator = make()
    data = {**images(24), "scale": np.array([1.0] * 8 + [np.inf] + [1.0] * 15)}
    trainer = trainer_of(accelerator, NanGuard(), loss=loss, optimizer=ct.sgd(1e-3))
    loader = accelerator.loader(data, batch_size=4)
    history = trainer.fit(loader, epochs=1, eval_loader=loader)
    assert history.stop_reason == "loss=inf at optimizer step 3"
    assert trainer.state.step == 4  # what is logged comes one step late
    assert not history.evaluations


@pytest.mark.parametrize(
    ("form", "rate", "momentum"),
    [
        ("fastai", ct.one_cycle, ct.one_cycle_momentum),
        ("torch", ct.torch_one_cycle, ct.torch_one_cycle_momentum),
        ("smith", ct.smith_one_cycle, ct.smith_one_cycle_momentum),
    ],
)
def test_recorder_has_and_draws_rate_and_momentum_of_every_step(
    make: Make, tmp_path: Path, form: Any, rate: Callable[..., ct.Schedule], momentum: Callable[..., ct.Schedule]
) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    recorder, accelerator = Recorder(), make()
    trainer = trainer_of(accelerator, recorder, log_every=3)
    loader = accelerator.loader(images(32), batch_size=4)
    trainer.fit_one_cycle(loader, 2, 0.1, cycle=ct.Cycle(form=form), eval_loader=loader)
    assert recorder.steps == list(range(1, 17))
    assert recorder.rates == rate(0.1, 16).table(16).tolist()
    assert recorder.momenta == momentum(16).table(16).tolist()
    # The momentum is lowest where the rate is highest.
    assert abs(int(np.argmin(recorder.momenta)) - int(np.argmax(recorder.rates))) <= 1
    logged = trainer.history.train
    assert [each.values["learning_rate"] for each in logged] == [recorder.rates[each.step - 1] for each in logged]
    steps, losses = recorder.curve("loss")
    assert steps.tolist() == [3, 6, 9, 12, 15, 16]
    assert losses.tolist() == trainer.history.values("loss").tolist()
    with pytest.raises(ct.ConfigError, match="metric must be one of loss"):
        recorder.curve("f1")
    beside = draw_record(recorder).axes[:2]
    assert [axes.get_title() for axes in beside] == ["learning rate", "momentum"]
    for axes, values in zip(beside, (recorder.rates, recorder.momenta), strict=True):
        (line,) = axes.get_lines()
        assert (list(line.get_xdata()), list(line.get_ydata())) == (recorder.steps, values)
    recorder.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"


def test_averaged_weights_are_evaluated_and_used(make: Make) -> None:
    accelerator = make()
    loader = accelerator.loader(images(16), batch_size=4)
    averaged = Averaged(loader, use=True)
    trainer = trainer_of(accelerator, averaged, state={"average": ct.ema(0.5)})
    trainer.fit(loader, epochs=2)
    assert [record.step for record in averaged.evaluations] == [4, 8]
    snapshot = trainer.state.snapshot()
    assert worst(dict(snapshot.params), dict(snapshot.averages)) == 0
    assert trainer.evaluate(loader)["loss"] == pytest.approx(averaged.evaluations[-1].values["loss"], rel=1e-12)
    with pytest.raises(ct.ConfigError, match=r"average=ct\.ema"):
        fit(trainer_of(accelerator, Averaged()))


def test_an_average_that_has_not_begun_is_not_used(make: Make) -> None:
    for start, used in ((100, False), (6, True)):
        accelerator = make()
        loader = accelerator.loader(images(16), batch_size=4)
        trainer = trainer_of(accelerator, Averaged(use=True), state={"average": ct.swa(start=start)})
        first = trainer.state.snapshot().params
        trainer.fit(loader, epochs=2)
        snapshot = trainer.state.snapshot()
        assert (worst(dict(snapshot.params), dict(snapshot.averages)) == 0) == used
        assert worst(dict(snapshot.params), dict(first)) > 0


def test_statistics_are_the_same_on_both_engines(pytestconfig: pytest.Config) -> None:
    looks = []
    for backend in pytestconfig.getoption("--backends").split(","):
        statistics = Statistics(every=2)
        trainer = trainer_of(ct.Accelerator(backend, precision="fp64"), statistics, grad_norm=True)
        history = fit(trainer, count=16)
        assert [look.step for look in statistics.looks] == [0, 2]
        assert statistics.looks[0].grad_norm == pytest.approx(history.train[0].values["grad_norm"], rel=1e-12)
        looks.append(statistics.looks)
    for other in looks[1:]:
        for a, b in zip(looks[0], other, strict=True):
            assert a.gradients.keys() == b.gradients.keys()
            both = a.activations.keys() & b.activations.keys()
            assert {"", "layers.0", "layers.1"} <= both
            pairs = [(a.activations[name], b.activations[name]) for name in both]
            for x, y in pairs + [(a.gradients[name], b.gradients[name]) for name in a.gradients]:
                found, expected = ((each.mean, each.std, each.near_zero, each.norm) for each in (x, y))
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_mfu_is_speed_times_flops_over_peak(make: Make) -> None:
    accelerator = make()
    trainer = trainer_of(accelerator, Mfu(1e12), Mfu(2e12, flops_per_example=123.0))
    record = fit(trainer).train[-1]
    speed = record.values["examples_per_second"]
    assert record.values["mfu"] == pytest.approx(speed * 123.0 / (2e12 * accelerator.device_count))


def test_predictions_and_text_are_the_same_on_both_engines(pytestconfig: pytest.Config) -> None:
    found = []
    for backend in pytestconfig.getoption("--backends").split(","):
        accelerator, shown = ct.Accelerator(backend, precision="fp64"), []
        text = TextSamples(
            [[1, 2, 3], [4]],
            length=10,
            context=8,
            decode=lambda ids: " ".join(map(str, ids)),
            show=lambda step, texts, shown=shown: shown.append((step, texts)),
        )
        greedy = TextSamples([[5, 6]], length=3, context=8, decode=str, temperature=0.0, every=2)
        predictions = Predictions({"tokens": tokens(2)["tokens"]}, logits_fn)
        trainer = trainer_of(accelerator, text, greedy, predictions, config=GPT, optimizer=ct.adamw(1e-2))
        trainer.fit(accelerator.loader(tokens(16), batch_size=8), epochs=2)
        assert shown == text.found
        assert [step for step, _ in text.found] == [0, 2, 4]
        assert [step for step, _ in greedy.found] == [0, 4]
        assert all(line.startswith("1 2 3 ") and len(line.split()) == 13 for _, (line, _) in text.found)
        assert predictions.found[0][1]["prediction"].shape == (2, 8, 32)
        found.append((text.found, greedy.found, predictions.found))
    for other in found[1:]:
        assert other[:2] == found[0][:2]
        for (_, a), (_, b) in zip(found[0][2], other[2], strict=True):
            assert b["prediction"] == pytest.approx(a["prediction"], rel=1e-9, abs=1e-12)


def test_profiles_of_both_engines_go_to_one_folder(make: Make, backend: str, tmp_path: Path) -> None:
    trainer = trainer_of(make(precision="fp32"), Profile(tmp_path, first=1, steps=2))
    fit(trainer, count=24)
    fit(trainer, count=8)
    written = [path for path in (tmp_path / backend).rglob("*") if path.is_file()]
    assert [path for path in written if path.name.endswith((".trace.json.gz", ".xplane.pb"))]
    assert all(path.stat().st_size > 100 for path in written)


def test_a_trace_goes_to_a_folder_named_by_a_string(make: Make, backend: str, tmp_path: Path) -> None:
    accelerator = make(precision="fp32")
    with accelerator.trace(str(tmp_path)):
        accelerator.synchronize()
    assert any((tmp_path / backend).rglob("*"))


def test_no_callback_reads_a_metric_before_it_is_logged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are copied to the host at logging time only: three times in nine steps, and once for the evaluation."""
    reads: list[int] = []
    sums = ct.Metrics.sums

    def counted(self: ct.Metrics) -> np.ndarray:
        reads.append(self._host is None)
        return sums(self)

    monkeypatch.setattr(ct.Metrics, "sums", counted)
    accelerator = make()
    quiet = [EarlyStopping(), BestModel(), NanGuard(), TimeBudget(1e9), Recorder(), Mfu(1e12)]
    trainer = trainer_of(accelerator, *quiet, log_every=3)
    fit(trainer, count=36, eval_loader=accelerator.loader(images(4), batch_size=4))
    assert sum(reads) == 3 + 1
