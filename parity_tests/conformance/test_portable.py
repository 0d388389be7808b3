"""Portable checkpoints: what one state exports, another restores, bit for bit; bad ones change nothing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import crosstrain as ct
from crosstrain.checkpoint import open_portable
from crosstrain.checkpoint.portable import export

from .tasks import ADAM, GPT, MLP, SAVED, images, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


@pytest.fixture
def trained(make: Make, tmp_path: Path) -> tuple[ct.Accelerator, ct.TrainState, Path]:
    """An MLP after three steps, and its checkpoint."""
    accelerator = make()
    state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
    for _ in range(3):
        step(state, images(8))
    return accelerator, state, accelerator.export(state, tmp_path / "checkpoint", config={"name": "mlp"})


@pytest.mark.parametrize(("config", "optimizer"), SAVED)
def test_training_continues_bit_for_bit(make: Make, tmp_path: Path, config: Any, optimizer: Any) -> None:
    accelerator, batch = make(), tokens(8) if config is GPT else images(8)
    state, step = prepared(accelerator, config, optimizer, average=ct.ema(0.9)), accelerator.train_step(loss_fn)
    for _ in range(3):
        step(state, batch)
    accelerator.export(state, tmp_path / "checkpoint")
    expected = [step(state, batch)["loss"] for _ in range(3)]
    fresh = prepared(accelerator, config, optimizer, average=ct.ema(0.9))
    accelerator.restore(tmp_path / "checkpoint", fresh)
    assert [step(fresh, batch)["loss"] for _ in range(3)] == expected
    assert worst(fresh.snapshot().params, state.snapshot().params) == 0
    assert worst(fresh.snapshot().averages, state.snapshot().averages) == 0


def test_a_users_dropout_goes_on_where_it_was(make: Make, backend: str, tmp_path: Path) -> None:
    accelerator, batch = make(precision="fp32"), images(8)
    state, step = accelerator.prepare(native(backend).Small(), ct.sgd(0.1)), accelerator.train_step(loss_fn)
    step(state, batch)
    accelerator.export(state, tmp_path / "checkpoint")
    expected = [step(state, batch)["loss"] for _ in range(3)]
    assert len(set(expected)) == 3
    fresh = accelerator.prepare(native(backend).Small(), ct.sgd(0.1))
    accelerator.restore(tmp_path / "checkpoint", fresh)
    assert [step(fresh, batch)["loss"] for _ in range(3)] == expected


def test_files_are_plain_safetensors_under_canonical_names(trained: Any) -> None:
    _, state, path = trained
    weights = safetensors.numpy.load_file(path / "params-00001.safetensors")
    assert worst(weights, dict(state.snapshot().params)) == 0
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
    manifest = open_portable(path).manifest
    assert (manifest.step, manifest.config) == (3, {"name": "mlp"})
    assert manifest.optimizer is not None
    assert (manifest.optimizer["type"], manifest.optimizer["weight_decay"]) == ("AdamW", 0.1)


def test_shards_hold_all_arrays_once(trained: Any, tmp_path: Path) -> None:
    accelerator, state, _ = trained
    path = export(accelerator, state, tmp_path / "small", shard_bytes=1000)
    opened = open_portable(path)
    params = opened.manifest.sections["params"]
    assert len(params) > 1
    assert sorted(name for shard in params for name in shard.names) == sorted(state.parameter_shapes)
    fresh = prepared(accelerator, MLP, ADAM)
    accelerator.restore(path, fresh)
    assert worst(fresh.snapshot().params, state.snapshot().params) == 0


def truncate(path: Path) -> None:
    os.truncate(path / "params-00001.safetensors", 100)


def flip_a_bit(path: Path) -> None:
    file = path / "moments-first_moment-00001.safetensors"
    values = bytearray(file.read_bytes())
    values[-1] ^= 1
    file.write_bytes(values)


def remove(path: Path) -> None:
    (path / "params-00001.safetensors").unlink()


def swap_files(path: Path) -> None:
    shutil.copy(path / "moments-first_moment-00001.safetensors", path / "moments-second_moment-00001.safetensors")


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        manifest = json.loads((path / "checkpoint.json").read_text())
        (path / "checkpoint.json").write_text(json.dumps(change(manifest) or manifest))

    return write


def text(value: str) -> Callable[[Path], None]:
    return lambda path: (path / "checkpoint.json").write_text(value) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "params-00001.safetensors must"),
        (flip_a_bit, "moments-first_moment-00001.safetensors must have the checksum .* it is damaged"),
        (remove, "params-00001.safetensors must exist, but is missing"),
        (swap_files, "moments-second_moment-00001.safetensors must have the checksum"),
        (lambda path: (path / "checkpoint.json").unlink(), "must be a directory with a checkpoint.json"),
        (text("{"), "must be what crosstrain wrote, got JSONDecodeError"),
        (text("[" * 100_000), "must be what crosstrain wrote, got RecursionError"),
        (text("[]"), "must be what crosstrain wrote, got TypeError"),
        (edit(lambda m: m.update(format=99)), "format must be 1, got format=99"),
        (edit(lambda m: m.update(step=-1)), "step must be an integer of at least 0, got step=-1"),
        (edit(lambda m: m.update(optimizer=3)), "optimizer must hold names and values, got optimizer=3"),
        (edit(lambda m: m.update(data=3)), "data must hold names and values, got data=3"),
        (edit(lambda m: m.update(surprise=1)), "must be what crosstrain wrote, got TypeError"),
        (
            edit(lambda m: m["sections"]["params"][0].update(file="../elsewhere.safetensors")),
            r"file must be a safetensors file in this directory, got file='../elsewhere.safetensors'",
        ),
        (edit(lambda m: m["sections"].pop("params") and None), "sections must be params and others"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_and_nothing_changes(
    trained: Any, damage: Callable[[Path], None], message: str
) -> None:
    accelerator, _, path = trained
    damage(path)
    fresh = prepared(accelerator, MLP, ADAM)
    before = fresh.snapshot()
    with pytest.raises(ct.CheckpointError, match=message):
        accelerator.restore(path, fresh)
    assert fresh.step == 0
    assert worst(fresh.snapshot().params, before.params) == 0


def test_a_manifest_of_unreasonable_size_is_not_read(trained: Any) -> None:
    accelerator, state, path = trained
    with (path / "checkpoint.json").open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(ct.CheckpointError, match="must have at most 67108864 bytes, got 1073741824"):
        accelerator.restore(path, state)


@pytest.mark.parametrize(
    ("config", "optimizer", "message"),
    [
        (ct.models.MLPConfig(hidden=(8,), activation="gelu"), ADAM, r"layers.0.\w+ must have shape"),
        (GPT, ADAM, "does not fit: the snapshot's params must be those of this model, missing: "),
        (MLP, ct.sgd(0.1, momentum=0.9), "must be resumed with AdamW, which it was trained with, got Sgd"),
        (MLP, ct.lamb(0.1), r"got Lamb with .* or take over all but the moments: state.load\(dataclasses.replace\("),
    ],
    ids=["width", "model", "optimizer", "same-moments"],
)
def test_a_checkpoint_of_something_else_is_refused(trained: Any, config: Any, optimizer: Any, message: str) -> None:
    accelerator, _, path = trained
    other = prepared(accelerator, config, optimizer)
    before = other.snapshot()
    with pytest.raises(ct.CheckpointError, match=message):
        accelerator.restore(path, other)
    assert worst(other.snapshot().params, before.params) == 0


def test_an_export_never_writes_over_anything(trained: Any, tmp_path: Path) -> None:
    accelerator, state, path = trained
    with pytest.raises(ct.CheckpointError, match="path must not exist yet"):
        accelerator.export(state, path)
    with pytest.raises(ct.CheckpointError, match="config must hold only what JSON can"):
        accelerator.export(state, tmp_path / "other", config={"array": np.zeros(3)})
    (tmp_path / "file").write_text("")
    with pytest.raises(ct.CheckpointError, match="must be a place to write to"):
        accelerator.export(state, tmp_path / "file" / "checkpoint")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint", "file"]
    open_portable(path).verify()
