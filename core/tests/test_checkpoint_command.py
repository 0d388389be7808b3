"""`crosstrain checkpoint`: what it prints, writes and exits with, over checkpoints made of real files."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import crosstrain as ct
from crosstrain.checkpoint.command import convert, diff, inspect, verify
from crosstrain.checkpoint.files import committed
from crosstrain.checkpoint.manifest import Manifest, write_manifest
from crosstrain.checkpoint.shards import write_shards
from crosstrain.checkpoint.specs import describe
from crosstrain.cli import main

WEIGHTS = {"a.weight": np.arange(12.0).reshape(3, 4), "a.bias": np.zeros(3)}


def write(folder: Path, weights: dict[str, np.ndarray], averages: dict[str, np.ndarray] | None = None) -> Path:
    tables = {"params": weights} | ({"averages": averages} if averages else {})
    with committed(folder) as draft:
        sections = {name: tuple(write_shards(draft, name, each, 1 << 20)) for name, each in tables.items()}
        manifest = Manifest(
            step=7,
            backend="torch",
            seed=1,
            precision={"param_dtype": "float64"},
            optimizer=describe(ct.adamw(ct.cosine(0.1, 10), groups=(ct.undecayed(),))),
            sections=sections,
            config={"name": "small"},
        )
        write_manifest(draft, manifest)
    return folder


def test_inspect_shows_facts_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(write(tmp_path / "one", WEIGHTS)) == 0
    shown = capsys.readouterr().out
    for text in ("portable", "7", "torch engine", "AdamW", "Cosine", '{"name": "small"}', "params", "15"):
        assert text in shown


def test_verify_reads_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "one", WEIGHTS)
    assert verify(path) == 0
    assert "whole: 1 files" in capsys.readouterr().out
    (path / "params-00001.safetensors").write_bytes(b"0" * (path / "params-00001.safetensors").stat().st_size)
    with pytest.raises(ct.CheckpointError, match=r"params-00001\.safetensors must have the checksum"):
        verify(path)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda w: {**w, "a.bias": w["a.bias"] + 0.5}, ["1 arrays differ", "params/a.bias", "0.5"]),
        (lambda w: {"a.weight": w["a.weight"]}, ["1 arrays differ", "params/a.bias", "only in one"]),
        (lambda w: {**w, "a.weight": w["a.weight"].T.copy()}, ["(3, 4) against (4, 3)"]),
    ],
)
def test_diff_names_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[..., dict[str, np.ndarray]], shown: list[str]
) -> None:
    a, b = write(tmp_path / "a", WEIGHTS), write(tmp_path / "b", change(WEIGHTS))
    assert diff(a, a) == 0
    assert "equal in every array" in capsys.readouterr().out
    assert diff(a, b) == 1
    found = capsys.readouterr().out
    assert all(text in found for text in shown), found


def test_convert_writes_what_other_tools_read(tmp_path: Path) -> None:
    averages = {name: values + 1 for name, values in WEIGHTS.items()}
    path = write(tmp_path / "one", WEIGHTS, averages)
    assert convert(path, tmp_path / "out", what="averages", dtype="float32", shard_bytes=20) == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(WEIGHTS)
    for name, file in index["weight_map"].items():
        loaded = safetensors.numpy.load_file(tmp_path / "out" / file)[name]
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, averages[name].astype(np.float32))
    with pytest.raises(ct.CheckpointError, match="out must not exist yet"):
        convert(path, tmp_path / "out")
    with pytest.raises(ct.CheckpointError, match="must hold averages, got none"):
        convert(write(tmp_path / "plain", WEIGHTS), tmp_path / "other", what="averages")
    assert not (tmp_path / "other").exists()


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "one", WEIGHTS)
    for arguments, status in ((["verify", str(path)], 0), (["verify", str(tmp_path / "none")], 2)):
        monkeypatch.setattr(sys, "argv", ["crosstrain", "checkpoint", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status
    assert "error: a checkpoint must be a directory with a checkpoint.json" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("name", ["run [lr=0.1]", "run[", "[", "a:x:b", "x[b]/y[/b]/z[/x]"])
def test_a_path_is_printed_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(Path(name), WEIGHTS)
    out = path.parent / f"{path.name}.out"
    assert (inspect(path), convert(path, out)) == (0, 0)
    found = capsys.readouterr().out
    assert name in found.splitlines()[0]
    assert f"wrote {out}: 1 files" in found
