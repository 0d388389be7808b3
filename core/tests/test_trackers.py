"""Trackers by themselves: files, and other people's libraries where they are installed."""

import gc
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.trackers.base import flatten

CONFIG = {"seed": 0, "optimizer.type": "AdamW", "model.dropout": None}


def run_twice(tracker: Any) -> None:
    """Two steps, a crash, and step 2 again from a checkpoint of step 1, by another process."""
    tracker.start(CONFIG, 0)
    tracker.log(1, {"epoch": 0, "train/loss": 2.0})
    tracker.log(1, {"epoch": 0, "eval/loss": 1.75})
    tracker.log(2, {"epoch": 0, "train/loss": 1.5})
    tracker.finish(KeyError("power"))
    tracker.start(CONFIG, 1)
    tracker.log(2, {"epoch": 0, "train/loss": 1.5})
    tracker.log(3, {"epoch": 1, "train/loss": 1.25})
    tracker.finish(None)


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    tracker = ct.trackers.JsonLines(tmp_path / "run.jsonl")
    tracker.start(CONFIG, 0)
    tracker.log(1, {"train/loss": float("nan"), "train/norm": float("inf")})
    tracker.finish(None)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    line = json.loads(tracker.path.read_text().splitlines()[1], parse_constant=refuse)
    assert line == {"step": 1, "train/loss": "nan", "train/norm": "inf"}
    assert float(line["train/norm"]) == float("inf")


@pytest.mark.parametrize("kind", [ct.trackers.JsonLines, ct.trackers.Csv])
def test_scalars_of_numpy_are_numbers(kind: Any, tmp_path: Path) -> None:
    tracker = kind(tmp_path / "run")
    tracker.start(CONFIG, 0)
    tracker.log(1, {"norm": np.float32(1.5), "count": np.int64(3), "value": np.array(2.0)})
    tracker.finish(None)
    last = tracker._read()[-1]
    assert {name: float(value) for name, value in last.items()} == {"step": 1, "norm": 1.5, "count": 3, "value": 2.0}


def test_settings_that_change_are_written_again(tmp_path: Path) -> None:
    tracker = ct.trackers.JsonLines(tmp_path / "run.jsonl")
    run_twice(tracker)
    tracker.start({**CONFIG, "seed": 1}, 3)
    tracker.finish(None)
    records = [json.loads(line) for line in tracker.path.read_text().splitlines()]
    assert [each["config"]["seed"] for each in records if "config" in each] == [0, 1]
    assert [each["step"] for each in records] == [0, 1, 1, 2, 3, 3]


def test_a_later_metric_becomes_a_column(tmp_path: Path) -> None:
    tracker = ct.trackers.Csv(tmp_path / "run.csv")
    run_twice(tracker)
    assert tracker.path.read_text().split() == [
        "step,epoch,train/loss,eval/loss",
        "1,0,2.0,",
        "1,0,,1.75",
        "2,0,1.5,",
        "3,1,1.25,",
    ]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["run.config.json", "run.csv"]


@pytest.mark.parametrize("suffix", [".csv", ""])
def test_a_table_that_is_moved_aside_takes_its_settings_along(tmp_path: Path, suffix: str) -> None:
    for seed in range(3):
        tracker = ct.trackers.Csv(tmp_path / f"run{suffix}")
        tracker.start({"seed": seed}, 0)
        tracker.log(1, {"loss": float(seed)})
        tracker.finish(None)
    for name, seed in (("run.1", 0), ("run.2", 1), ("run", 2)):
        assert json.loads((tmp_path / f"{name}.config.json").read_text()) == {"seed": seed}
        assert (tmp_path / f"{name}{suffix}").read_text().split() == ["step,loss", f"1,{float(seed)}"]


def test_text_keeps_its_lines_when_a_column_is_added(tmp_path: Path) -> None:
    tracker = ct.trackers.Csv(tmp_path / "run.csv")
    tracker.start({}, 0)
    tracker.log(1, {"text": "two\nlines"})
    tracker.log(2, {"a\u2028name": 1.0})
    tracker.log(3, {"loss": 1.0})
    tracker.finish(None)
    assert [each["text"] for each in tracker._read()] == ["two\nlines", "", ""]
    assert [each["a\u2028name"] for each in tracker._read()] == ["", "1.0", ""]


@pytest.mark.parametrize("kind", [ct.trackers.Csv, ct.trackers.JsonLines])
def test_who_may_read_a_file_still_may_when_it_is_rewritten(kind: Any, tmp_path: Path) -> None:
    tracker = kind(tmp_path / "run")
    run_twice(tracker)
    plain = tmp_path / "plain"
    plain.touch()
    assert tracker.path.stat().st_mode == plain.stat().st_mode


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ct.ConfigError, match="path must be a file, got"):
        ct.trackers.Csv(tmp_path)


def test_event_files_have_every_step(tmp_path: Path) -> None:
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    run_twice(ct.trackers.TensorBoard(tmp_path))
    found, purged, texts = [], [], ""
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        while data:  # TFRecord: length, its checksum, data, their checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = proto.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.HasField("session_log"):
                purged.append(event.step)
            for value in event.summary.value:
                if value.tag.endswith("loss"):
                    found.append((event.step, value.tag, value.simple_value))
                texts += str(value.tensor.string_val)
    assert sorted(set(found)) == [
        (1, "eval/loss", 1.75),
        (1, "train/loss", 2.0),
        (2, "train/loss", 1.5),
        (3, "train/loss", 1.25),
    ]
    assert purged[-1] == 2
    assert "| optimizer.type | AdamW |" in texts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tracker = ct.trackers.WandB("project", folder=tmp_path, mode="offline")
    run_twice(tracker)
    files = list(tmp_path.rglob(f"run-{tracker.id}.wandb"))
    assert len(files) == 2
    assert all(b"train/loss" in path.read_bytes() for path in files)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_every_step_once(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    tracker = ct.trackers.MLflow("experiment", tracking_uri=uri)
    run_twice(tracker)
    client = mlflow.MlflowClient(uri)
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.0), (2, 1.5), (3, 1.25)]
    run = client.get_run(tracker.run_id)
    assert run.data.params == {"seed": "0", "optimizer.type": "AdamW", "model.dropout": "None"}
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    run_twice(ct.trackers.Trackio("project"))
    assert list(tmp_path.glob("project.db"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_aim_has_every_step_once(tmp_path: Path) -> None:
    aim = pytest.importorskip("aim")
    tracker = ct.trackers.Aim(tmp_path, experiment="experiment", name="run")
    run_twice(tracker)
    gc.collect()
    run = aim.Run(tracker.run_hash, repo=str(tmp_path), system_tracking_interval=None, capture_terminal_logs=False)
    found = {each.name: each.data.items_list() for each in run.metrics()}
    steps, (losses, epochs, _) = found["train/loss"]
    assert (steps, losses, epochs) == ([1, 2, 3], [2.0, 1.5, 1.25], [0.0, 0.0, 1.0])
    assert found["eval/loss"][0] == [1]
    assert (run.name, run.experiment, run["config"]) == ("run", "experiment", CONFIG)
    run.close()


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [
        ("TensorBoard", "tensorboardX", "tensorboard"),
        ("WandB", "wandb", "wandb"),
        ("MLflow", "mlflow", "mlflow"),
        ("Trackio", "trackio", "trackio"),
        ("Aim", "aim", "aim"),
    ],
)
def test_a_library_that_is_not_installed_is_named(kind: str, library: str, extra: str) -> None:
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(ct.CrosstrainError, match=rf"{kind} needs {library}, .*pip install 'crosstrain\[{extra}\]'"):
        getattr(ct.trackers, kind)("project")


def test_specs_are_flattened_to_the_ground() -> None:
    spec = ct.adamw(ct.one_cycle(0.1, 10), groups=(ct.undecayed("norm"),))
    found = dict(flatten({"optimizer": spec, "mesh": {"data": 2}}))
    assert found["mesh.data"] == 2
    assert found["optimizer.learning_rate.type"] == "OneCycle"
    assert found["optimizer.groups.0.weight_decay"] == 0.0
    assert found["optimizer.groups.0.roles"] == "('norm',)"
    assert all(value is None or isinstance(value, str | int | float | bool) for value in found.values())
