"""Runs written to files while they train: flushed, gone on with, and the same on both engines."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct
from crosstrain.callbacks import Mfu, Run

from .tasks import MLP, images, loss_fn, prepared

Make = Callable[..., ct.Accelerator]


class Stop(ct.Callback):
    """A crash after a step, and what the file held at every logged step."""

    def __init__(self, path: Path, at: int | None) -> None:
        self.path, self.at, self.lines = path, at, []  # type: ignore[var-annotated]

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        self.lines.append(len(self.path.read_text().splitlines()))
        if run.state.step == self.at:
            raise KeyError("power")


def train(accelerator: ct.Accelerator, *trackers: Any, stop: int | None = None, root: Path, resume: Any = None) -> Stop:
    watch = Stop(trackers[0].path, stop)
    trainer = ct.Trainer(
        accelerator,
        prepared(accelerator, MLP, ct.adamw(ct.cosine(0.01, 12), weight_decay=0.1)),
        loss_fn,
        clip_norm=1.0,
        callbacks=[watch, Mfu(1e12)],
        trackers=trackers,
        progress=False,
        log_every=2,
    )
    loader = accelerator.loader(images(24), batch_size=4)
    spec = ct.CheckpointSpec(root=root, every_steps=4, on_exception=False, signals=())
    trainer.fit(loader, epochs=2, eval_loader=loader, checkpoints=spec, resume=resume)
    return watch


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_appends_and_repeats_no_step(make: Make, backend: str, tmp_path: Path) -> None:
    lines, table = ct.trackers.JsonLines(tmp_path / "logs" / "run.jsonl"), ct.trackers.Csv(tmp_path / "run.csv")
    with pytest.raises(KeyError, match="power"):
        train(make(), lines, table, stop=7, root=tmp_path / "checkpoints")
    with lines.path.open("a") as file:
        file.write('{"step": 8, "tr')  # a line that was not finished
    train(make(), lines, table, root=tmp_path / "checkpoints", resume="auto")
    records = read(lines.path)
    config = records[0]["config"]
    assert records[0]["step"] == 0
    expected = {"backend": backend, "seed": 0, "model.type": "MLPConfig", "model.activation": "gelu"}
    expected |= {"optimizer.type": "AdamW", "optimizer.learning_rate.type": "Cosine", "optimizer.weight_decay": 0.1}
    expected |= {"precision.param_dtype": "float64", "mesh.data": make().mesh_sizes["data"], "step.clip_norm": 1.0}
    assert expected.items() <= config.items()
    steps = [(each["step"], "train/loss" in each) for each in records[1:]]
    assert steps == [(2, True), (4, True), (6, True), (6, False), (8, True), (10, True), (12, True), (12, False)]
    assert all({"train/learning_rate", "train/mfu", "epoch"} <= each.keys() for each in records if "train/loss" in each)
    with table.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), row["train/loss"] != "") for row in rows] == steps
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == [
        each["train/loss"] for each in records if "train/loss" in each
    ]
    assert json.loads(table.path.with_suffix(".config.json").read_text()) == config


def test_a_record_is_in_the_file_before_the_next_step(make: Make, tmp_path: Path) -> None:
    lines = ct.trackers.JsonLines(tmp_path / "run.jsonl")
    # The settings, and from step 3 on what was logged of step 2, one step late.
    assert train(make(), lines, root=tmp_path / "a").lines[:6] == [1, 1, 2, 2, 3, 3]
    first = lines.path.read_text()
    train(make(), lines, root=tmp_path / "b")
    assert (tmp_path / "run.1.jsonl").read_text() == first


def test_trackers_stop_no_device(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    sums = ct.Metrics.sums
    monkeypatch.setattr(ct.Metrics, "sums", lambda self: reads.append(self._host is None) or sums(self))
    train(make(), ct.trackers.JsonLines(tmp_path / "run.jsonl"), root=tmp_path / "a")
    assert sum(reads) == 6 + 2 * 6  # six logged steps, and two evaluations of six batches


def test_an_exception_reaches_the_tracker(make: Make, tmp_path: Path) -> None:
    ended: list[Any] = []

    class Own(ct.trackers.JsonLines):
        def finish(self, error: BaseException | None) -> None:
            ended.append(error)
            super().finish(error)

    with pytest.raises(KeyError):
        train(make(), Own(tmp_path / "run.jsonl"), stop=3, root=tmp_path / "a")
    train(make(), Own(tmp_path / "run.jsonl"), root=tmp_path / "b")
    assert isinstance(ended[0], KeyError)
    assert ended[1:] == [None]


def test_what_is_no_tracker_is_refused(make: Make) -> None:
    accelerator = make()
    with pytest.raises(ct.ConfigError, match="trackers must have start, log and finish, got 'wandb'"):
        ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, trackers=["wandb"])
