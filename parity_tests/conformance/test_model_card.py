"""Model cards: they parse, hold what the run did, and say how to load it; the lines that they say do load it."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import BestModel, ModelCard, Record, Run
from parity_tests.cards import Card, read

from .tasks import MLP, images, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]
SPEC = ct.CardSpec(name="digits", license="mit", datasets=("digits",), task="image-classification", tags=("tiny",))
ADAM = ct.adamw(ct.cosine(0.01, 12), groups=(ct.ParamGroup(match=r"^layers\.0|bias$", weight_decay=0.0),))


class Stop(ct.Callback):
    """A crash after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        if run.state.step == self.at:
            raise KeyError("power")


def train(accelerator: ct.Accelerator, *callbacks: ct.Callback, root: Path | None = None, **options: Any) -> ct.Trainer:
    state = prepared(accelerator, MLP, ADAM)
    trainer = ct.Trainer(accelerator, state, loss_fn, callbacks=callbacks, clip_norm=1.0, log_every=2, progress=False)
    loader = accelerator.loader(images(24), batch_size=4)
    if root is not None:
        options["checkpoints"] = ct.CheckpointSpec(root=root, every_steps=4, on_exception=False, signals=())
    trainer.fit(loader, epochs=2, eval_loader=loader, **options)
    return trainer


def card_of(folder: Path) -> Card:
    return read((folder / "README.md").read_text())


def column(card: Card, name: str) -> list[str]:
    columns, *rows = card.tables["Epochs"]
    return [row[columns.index(name)] for row in rows]


def check_metadata(card: Card, last: dict[str, float]) -> None:
    [entry] = card.metadata["model-index"]
    assert {name: value for name, value in card.metadata.items() if name != "model-index"} == {
        "library_name": "crosstrain",
        "license": "mit",
        "tags": ["crosstrain", "tiny"],
        "datasets": ["digits"],
        "metrics": ["accuracy"],
    }
    [result] = entry["results"]
    assert (entry["name"], result["task"]["type"]) == ("digits", "image-classification")
    assert {each["type"]: each["value"] for each in result["metrics"]} == pytest.approx(last, rel=1e-5)


def test_the_card_holds_the_run_and_its_lines_load_it(make: Make, backend: str, tmp_path: Path) -> None:
    accelerator = make()
    spec = dataclasses.replace(SPEC, portable=tmp_path / "portable")
    trainer = train(accelerator, ModelCard(tmp_path, spec), root=tmp_path / "checkpoints")
    card, history = card_of(tmp_path), trainer.history
    last = history.evaluations[-1].values
    assert (column(card, "epoch"), column(card, "step")) == (["1", "2"], ["6", "12"])
    for name in ("loss", "accuracy"):
        means = [np.mean([each.values[name] for each in history.train if each.epoch == epoch]) for epoch in (0, 1)]
        assert [float(each) for each in column(card, f"training {name}")] == pytest.approx(means, rel=1e-5)
        evaluated = [each.values[name] for each in history.evaluations]
        assert [float(each) for each in column(card, f"evaluation {name}")] == pytest.approx(evaluated, rel=1e-5)
    assert float(column(card, "learning rate")[1]) == pytest.approx(ADAM.learning_rate(11), rel=1e-5)
    assert all(float(each) > 0 for each in column(card, "seconds"))

    expected = {"optimizer": "AdamW", "optimizer.learning_rate": "Cosine", "optimizer.learning_rate.peak": "0.01"}
    expected |= {"optimizer.groups.0.match": r"^layers\.0|bias$", "optimizer.betas": "(0.9, 0.999)", "seed": "0"}
    expected |= {"step.clip_norm": "1.0", "batch_size": "4", "precision.param_dtype": "float64"}
    assert expected.items() <= card.settings("Training").items()
    assert card.settings("Model") == {
        "in_features": "64",
        "hidden": "(16,)",
        "out_features": "10",
        "activation": "gelu",
        "dropout": "0.0",
    }
    machine = card.settings("Engine, machine and time")
    assert (machine["engine"], machine["processes"]) == (backend, "1")
    assert backend in machine
    assert "1,210 parameters" in card.text
    assert "](README_training.png)" in card.text
    assert (tmp_path / "README_training.png").read_bytes().startswith(b"\x89PNG")

    accelerator.export(trainer.state, tmp_path / "portable")
    portable, own = card.code["Loading"]
    for code in (portable, own):
        found: dict[str, Any] = {"optimizer": ADAM}
        exec(code, found)
        assert found["state"].step == 12
        assert worst(found["state"].snapshot().params, trainer.state.snapshot().params) == 0.0
    check_metadata(card, last)


def test_a_resumed_run_says_so(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="power"):
        train(make(), ModelCard(tmp_path), Stop(11), root=tmp_path / "checkpoints")
    card = card_of(tmp_path)
    assert "It was ended by a KeyError." in card.text
    assert "The weights are those of step 11." in card.text
    assert (column(card, "step"), column(card, "evaluation loss")[1]) == (["6", "11"], "")
    trainer = train(make(), ModelCard(tmp_path), root=tmp_path / "checkpoints", resume="auto")
    card = card_of(tmp_path)
    assert "The run was resumed at optimizer step 8: " in card.text
    assert "KeyError" not in card.text
    assert (column(card, "epoch"), column(card, "step")) == (["2"], ["12"])
    logged = [each.values["loss"] for each in trainer.history.train]
    assert float(column(card, "training loss")[0]) == pytest.approx(np.mean(logged), rel=1e-5)
    before = (tmp_path / "README.md").read_text()
    train(make(), ModelCard(tmp_path), root=tmp_path / "checkpoints", resume="auto")
    assert (tmp_path / "README.md").read_text() == before, "a run that was over has nothing to say"


def test_a_run_that_was_done_keeps_its_card(make: Make, tmp_path: Path) -> None:
    cards = []
    for _ in range(2):
        accelerator = make()
        train_loader, test = (accelerator.loader(images(24), batch_size=4) for _ in range(2))
        trainer = ct.Trainer(
            accelerator, prepared(accelerator, MLP, ADAM), loss_fn, callbacks=[ModelCard(tmp_path)], progress=False
        )
        spec = ct.CheckpointSpec(root=tmp_path / "checkpoints")
        trainer.fit(train_loader, epochs=1, eval_loader=test, checkpoints=spec, resume="auto")
        cards.append((tmp_path / "README.md").read_text())
    assert cards[1] == cards[0]


def test_what_others_wrote_is_refused_before_the_first_step(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Mine\n")
    taken: list[int] = []

    class Watch(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            taken.append(run.step)

    accelerator = make()
    with pytest.raises(
        ct.ConfigError, match=r"path must be free or a card that crosstrain wrote, got path=.*README.md"
    ):
        train(accelerator, ModelCard(tmp_path), Watch())
    assert not taken
    assert path.read_text() == "# Mine\n"
    with pytest.raises(ct.ConfigError, match="pass overwrite=True"):
        ct.model_card(path, accelerator, prepared(accelerator, MLP), ct.History())


def test_the_result_is_that_of_the_weights_that_stay(make: Make, tmp_path: Path) -> None:
    class Worse(ct.Callback):
        """Makes the second evaluation look bad."""

        def on_evaluate_end(self, run: Run, record: Record) -> None:
            record.values["loss"] += run.epoch

    trainer = train(make(), Worse(), BestModel(), ModelCard(tmp_path))
    first = trainer.history.evaluations[0]
    assert trainer.state.step == first.step == 6
    assert f"Evaluation after optimizer step 6: loss {first.values['loss']:.6g}, " in card_of(tmp_path).text


@pytest.mark.slow
def test_epochs_of_several_calls_are_counted_on(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    trainer = ct.Trainer(
        accelerator, prepared(accelerator, MLP), loss_fn, callbacks=[ModelCard(tmp_path / "a.md")], progress=False
    )
    loader = accelerator.loader(images(8), batch_size=4)
    for epochs in (1, 2):
        trainer.fit(loader, epochs=epochs)
    card = read((tmp_path / "a.md").read_text())
    assert (column(card, "epoch"), column(card, "step")) == (["1", "2", "3"], ["2", "4", "6"])
    assert "Settings are those of the last of 2 calls of `fit`." in card.text
    assert card.settings("Training")["epochs"] == "2"
    assert "# a\n\nIt was not evaluated." in card.text
    assert (tmp_path / "a_training.png").exists()


def test_a_loop_and_a_model_of_ones_own(make: Make, backend: str, tmp_path: Path) -> None:
    accelerator = make()
    state = accelerator.prepare(native(backend).Tokens(), ct.sgd(ct.cosine(0.1, 4), momentum=0.9))
    step, history = accelerator.train_step(loss_fn), ct.History()
    for batch in accelerator.loader(tokens(16), batch_size=4):
        history.train.append(Record(step=state.step, epoch=0, values=dict(step(state, batch))))
    path = ct.model_card(tmp_path, accelerator, state, history, SPEC)
    card = read(path.read_text())
    assert column(card, "epoch") == ["1"]
    assert f"A `{type(state.model).__name__}` of the training script" in card.text
    assert "model-index" not in card.metadata
    assert card.settings("Training")["optimizer.momentum"] == "0.9"


@pytest.mark.slow
def test_a_trainer_that_goes_on_has_every_step_once(make: Make, tmp_path: Path) -> None:
    stop = Stop(11)
    with pytest.raises(KeyError, match="power"):
        train(make(), ModelCard(tmp_path / "other"), Stop(5), root=tmp_path / "checkpoints")
    accelerator = make()
    loader = accelerator.loader(images(24), batch_size=4)
    trainer = ct.Trainer(
        accelerator,
        prepared(accelerator, MLP, ADAM),
        loss_fn,
        callbacks=[ModelCard(tmp_path), stop],
        progress=False,
        log_every=1,
    )
    spec = ct.CheckpointSpec(root=tmp_path / "checkpoints", every_steps=4, on_exception=False, signals=())
    with pytest.raises(KeyError, match="power"):
        trainer.fit(loader, epochs=2, checkpoints=spec, resume="auto")
    stop.at = 0
    history = trainer.fit(loader, epochs=2, checkpoints=spec, resume="auto")
    card = card_of(tmp_path)
    assert "The run was resumed at optimizer step 8: " in card.text
    assert (column(card, "epoch"), column(card, "step")) == (["1", "2"], ["6", "12"])
    losses = {each.step: each.values["loss"] for each in history.train}
    assert sorted(losses) == list(range(5, 13))
    assert len(history.train) > len(losses), "steps 9 and on were taken twice"
    means = [np.mean([losses[step] for step in steps]) for steps in (range(5, 7), range(7, 13))]
    assert [float(each) for each in column(card, "training loss")] == pytest.approx(means, rel=1e-5)


@pytest.mark.slow
def test_a_card_that_cannot_be_written_costs_no_run(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Occupy(ct.Callback):
        def on_epoch_end(self, run: Run) -> None:
            (tmp_path / "README.md").write_text("# Somebody was here\n")

    with caplog.at_level(logging.WARNING, "crosstrain"):
        trainer = train(make(), Occupy(), ModelCard(tmp_path))
    assert trainer.state.step == 12
    assert "could not write the model card: path must be free" in caplog.text
    assert (tmp_path / "README.md").read_text() == "# Somebody was here\n"
