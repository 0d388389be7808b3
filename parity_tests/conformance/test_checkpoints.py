"""Step directories of a run: committed whole, kept by rule, passed over when damaged, refused when they do not fit."""

import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.checkpoint import Best, Checkpoints

from .tasks import ADAM, GPT, MLP, SAVED, images, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


@pytest.mark.parametrize(("config", "optimizer"), SAVED)
def test_training_continues_bit_for_bit(make: Make, tmp_path: Path, config: Any, optimizer: Any) -> None:
    """Steps that follow `save` at once do not reach what it writes."""
    accelerator, batch = make(), tokens(8) if config is GPT else images(8)
    state, step = prepared(accelerator, config, optimizer, average=ct.ema(0.9)), accelerator.train_step(loss_fn)
    checkpoints = Checkpoints(accelerator, tmp_path)
    for _ in range(2):
        step(state, batch)
        checkpoints.save(state)
    expected = [step(state, batch)["loss"] for _ in range(3)]
    checkpoints.close()
    fresh = prepared(accelerator, config, optimizer, average=ct.ema(0.9))
    manifest = Checkpoints(accelerator, tmp_path).restore(fresh)
    assert manifest is not None
    assert (manifest.step, fresh.step) == (2, 2)
    assert [step(fresh, batch)["loss"] for _ in range(3)] == expected
    found, wanted = fresh.snapshot(), state.snapshot()
    assert worst({**found.params, **found.buffers}, {**wanted.params, **wanted.buffers}) == 0
    assert worst(dict(found.averages), dict(wanted.averages)) == 0


def test_a_users_dropout_goes_on_where_it_was(make: Make, backend: str, tmp_path: Path) -> None:
    accelerator, batch = make(precision="fp32"), images(8)
    state, step = accelerator.prepare(native(backend).Small(), ct.sgd(0.1)), accelerator.train_step(loss_fn)
    step(state, batch)
    checkpoints = Checkpoints(accelerator, tmp_path)
    checkpoints.save(state)
    expected = [step(state, batch)["loss"] for _ in range(3)]
    checkpoints.close()
    fresh = accelerator.prepare(native(backend).Small(), ct.sgd(0.1))
    Checkpoints(accelerator, tmp_path).restore(fresh)
    assert [step(fresh, batch)["loss"] for _ in range(3)] == expected


def saved(accelerator: ct.Accelerator, root: Path, steps: int, **rules: Any) -> Checkpoints:
    """Checkpoints after each of `steps` steps; the metric falls to the middle and rises again."""
    state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
    checkpoints = Checkpoints(accelerator, root, **rules)
    for index in range(1, steps + 1):
        step(state, images(8))
        checkpoints.save(state, metrics={"error": abs(index - 4)}, config={"index": index})
    checkpoints.close()
    return checkpoints


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 2}, [7, 8]),
        ({"keep_last": 1, "keep_every": 3}, [3, 6, 8]),
        ({"keep_last": 1, "keep_best": Best("error")}, [4, 8]),
        ({"keep_last": 1, "keep_best": Best("error", "max", 2)}, [7, 8]),
        ({"keep_last": 1, "keep_best": Best("another")}, [8]),
    ],
)
def test_rules_decide_what_stays(make: Make, tmp_path: Path, rules: dict[str, Any], kept: list[int]) -> None:
    checkpoints = saved(make(), tmp_path, 8, **rules)
    assert checkpoints.steps() == kept
    names = {f"step_{step:08d}" for step in kept}
    assert {path.name for path in tmp_path.iterdir()} == {*names, ".lock"}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_values_that_are_not_finite_are_kept_and_never_best(make: Make, tmp_path: Path, mode: Any) -> None:
    accelerator = make()
    state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
    checkpoints = Checkpoints(accelerator, tmp_path, keep_last=1, keep_best=Best("error", mode))
    values = [-math.inf, math.inf, np.float32(1.0), math.nan, np.float32(math.nan)]
    for value in values:
        step(state, images(8))
        checkpoints.save(state, metrics={"error": value})
        checkpoints.save(state, metrics={"other": 2.0})  # reads what was written
    checkpoints.close()
    assert checkpoints.steps() == [3, 5]
    manifest = checkpoints.restore(state)
    assert manifest is not None
    assert math.isnan(manifest.metrics["error"])
    assert manifest.metrics["other"] == 2.0


def damage(folder: Path, how: str) -> None:
    files = [path for path in (folder / "native").rglob("*") if path.is_file() and path.stat().st_size > 8]
    largest = max(files, key=lambda path: path.stat().st_size)
    if how == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    elif how == "changed":
        with largest.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
    elif how == "missing":
        largest.unlink()
    elif how == "renamed":
        shutil.rmtree(folder)
        folder.with_name("step_00000001").rename(folder)
    else:
        (folder / "checkpoint.json").write_text("{")


@pytest.mark.parametrize("how", ["truncated", "changed", "missing", "manifest", "renamed"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    accelerator = make()
    checkpoints = saved(accelerator, tmp_path, 3)
    damage(tmp_path / "step_00000003", how)
    state = prepared(accelerator, MLP, ADAM)
    with caplog.at_level(logging.WARNING, "crosstrain"):
        manifest = checkpoints.restore(state)
    assert manifest is not None
    assert (manifest.step, state.step, manifest.config) == (2, 2, {"index": 2})
    assert "passing over a damaged checkpoint" in caplog.text
    assert "step_00000003" in caplog.text
    with pytest.raises(ct.CheckpointError, match="step_00000003"):
        checkpoints.restore(state, step=3)


def test_only_damaged_checkpoints_are_an_error(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    checkpoints = saved(accelerator, tmp_path, 2)
    for step in (1, 2):
        damage(tmp_path / f"step_{step:08d}", "truncated")
    state = prepared(accelerator, MLP, ADAM)
    with pytest.raises(ct.CheckpointError, match="it is truncated or was written over"):
        checkpoints.restore(state)
    assert state.step == 0


def test_no_checkpoint_is_no_error(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    assert Checkpoints(accelerator, tmp_path / "none").restore(prepared(accelerator, MLP, ADAM)) is None


@pytest.mark.parametrize(
    ("config", "optimizer", "message"),
    [
        (ct.models.MLPConfig(hidden=(8,), activation="gelu"), ADAM, r"of another shape: .*params/layers.0.weight"),
        (GPT, ADAM, "missing: .*unknown: "),
        (MLP, ct.sgd(0.1, momentum=0.9), "must be resumed with AdamW, which it was trained with, got Sgd"),
        (MLP, ct.adam(1e-2), "got Adam with learning_rate=Constant for Cosine, weight_decay=0.0 for 0.1"),
        (MLP, ct.lamb(1e-2), "AdamW, which it was trained with, got Lamb"),
    ],
    ids=["width", "model", "optimizer", "moments of the same names", "the same and more"],
)
def test_a_checkpoint_of_something_else_is_refused(
    make: Make, tmp_path: Path, config: Any, optimizer: Any, message: str
) -> None:
    accelerator = make()
    checkpoints = saved(accelerator, tmp_path, 1)
    other = prepared(accelerator, config, optimizer)
    before = other.snapshot()
    with pytest.raises(ct.CheckpointError, match=message):
        checkpoints.restore(other)
    assert worst(dict(other.snapshot().params), dict(before.params)) == 0


def test_other_numbers_of_the_optimizer_are_named(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In both kinds of checkpoints; the same ones are not worth a word."""
    accelerator = make()
    checkpoints = saved(accelerator, tmp_path / "run", 1)
    accelerator.export(prepared(accelerator, MLP, ADAM), tmp_path / "portable")
    changed = ct.adamw(ct.cosine(1e-3, 20), weight_decay=0.1, betas=(0.8, 0.999))
    words = "with optimizer.learning_rate.peak=0.001 for 0.01, optimizer.betas[0]=0.8 for 0.9"
    for state, named in ((prepared(accelerator, MLP, ADAM), False), (prepared(accelerator, MLP, changed), True)):
        for restore in (checkpoints.restore, lambda each: accelerator.restore(tmp_path / "portable", each)):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "crosstrain"):
                restore(state)
            assert bool(caplog.text) == named
            assert not named or words in caplog.text


def test_another_precision_is_named(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(make(precision="fp32"), tmp_path, 1)
    accelerator = make(precision="bf16")
    with caplog.at_level(logging.WARNING, "crosstrain"):
        Checkpoints(accelerator, tmp_path).restore(prepared(accelerator, MLP, ADAM))
    assert "with precision.compute_dtype=bfloat16 for float32" in caplog.text


def test_another_vocabulary_is_refused_in_both_kinds(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    state, other = (prepared(accelerator, dataclasses.replace(GPT, vocab_size=size), ADAM) for size in (32, 48))
    checkpoints = Checkpoints(accelerator, tmp_path / "run")
    checkpoints.save(state)
    checkpoints.close()
    accelerator.export(state, tmp_path / "portable")
    before = other.snapshot()
    with pytest.raises(ct.CheckpointError, match=r"params/tok_embeddings.weight \(32, 16\) for \(48, 16\)"):
        checkpoints.restore(other)
    with pytest.raises(ct.CheckpointError, match=r"weight must have shape \(48, 16\), got \(32, 16\)"):
        accelerator.restore(tmp_path / "portable", other)
    assert worst(dict(other.snapshot().params), dict(before.params)) == 0


def test_a_native_checkpoint_is_no_portable_one(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    saved(accelerator, tmp_path, 1)
    state = prepared(accelerator, MLP, ADAM)
    with pytest.raises(ct.CheckpointError, match="must be a portable checkpoint, got a native one of the"):
        accelerator.restore(tmp_path / "step_00000001", state)
    assert state.step == 0


def test_a_second_job_is_refused(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP, ADAM)
    first, second = Checkpoints(accelerator, tmp_path), Checkpoints(accelerator, tmp_path)
    first.save(state)
    accelerator.train_step(loss_fn)(state, images(8))
    for attempt in (second.prepare, second.save):
        with pytest.raises(ct.CheckpointError, match="only one job may write to"):
            attempt(state)
    first.close()
    second.prepare(state)
    second.save(state)
    second.close()
    assert second.steps() == [0, 1]


def test_a_place_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(accelerator, tmp_path / "file" / "run")
    with pytest.raises(ct.CheckpointError, match="must be a place to write to, got"):
        checkpoints.save(prepared(accelerator, MLP, ADAM))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep_last": 0}, "keep_last must be at least 1, got keep_last=0"),
        ({"keep_every": 2.5}, "keep_every must be an integer, got keep_every=2.5"),
        ({"keep_best": Best("loss", "lowest")}, "mode must be 'max' or 'min', got mode='lowest'"),
    ],
)
def test_rules_that_cannot_work(make: Make, tmp_path: Path, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        Checkpoints(make(), tmp_path, **rules)


def test_what_is_left_of_a_killed_save_is_never_offered(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    checkpoints = saved(accelerator, tmp_path, 2)
    draft = tmp_path / ".step_00000007.tmp"
    (draft / "native").mkdir(parents=True)
    (draft / "native" / "half").write_bytes(b"\0")
    (tmp_path / ".step_00000001.removed").mkdir()
    (tmp_path / "step_00000009").mkdir()
    assert checkpoints.steps() == [1, 2]
    state = prepared(accelerator, MLP, ADAM)
    checkpoints.restore(state)
    accelerator.train_step(loss_fn)(state, images(8))
    checkpoints.save(state)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".step")]
    assert np.isfinite(state.snapshot().params["layers.0.weight"]).all()
