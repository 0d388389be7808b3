"""`crosstrain estimate-memory` and every way to ask wrongly; `parity_tests/conformance` has the numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct
from crosstrain.planning.estimate_command import OPTIMIZERS, estimate_memory

SCRIPT = """
import numpy as np
import crosstrain as ct
config = ct.models.MLPConfig(in_features=4, hidden=(8,), out_features=2)
optimizer = ct.sgd(0.1, momentum=0.9)
precision = "fp64"
average = ct.ema(0.9)
def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["image"]), batch["label"])
def batches(step):
    return {"image": np.zeros((8, 4)), "label": np.zeros(8, np.int64)}
"""
COUNT = 8 * 4 + 8 + 2 * 8 + 2
"""Parameters of the script's model."""


def shown(capsys: Any, *args: Any, **options: Any) -> dict[str, int]:
    """The exact bytes per device that the command prints, by row."""
    assert estimate_memory(*args, backend="torch", **options) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: int(row[2].replace(",", "")) for row in cells if len(row) == 5 and row[0] != "per device"}


def test_a_file_says_what_is_estimated(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    found = shown(capsys, str(path))
    names = ("parameters", "gradients", "optimizer state", "average of the weights")
    assert {name: found[name] for name in names} == dict.fromkeys(names, 8 * COUNT)
    assert found["total"] == 4 * 8 * COUNT + found["buffers and counters"]


def test_options_replace_what_a_file_says(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    found = shown(capsys, str(path), precision="bf16-pure", momentum=0.0)
    assert (found["parameters"], found["optimizer state"]) == (2 * COUNT, 0)


def test_presets_settings_and_meshes(capsys: Any) -> None:
    config = ct.models.MLPConfig(hidden=(64, 32), in_features=16)
    found = shown(capsys, "mlp", config=("hidden=[64, 32]", "in_features=16"), optimizer="lion", mesh="tensor=2")
    plan = ct.estimate_memory(config, ct.lion(1e-3), backend="torch", mesh=ct.MeshSpec(tensor=2)).plan
    assert found["parameters"] == found["optimizer state"] == 4 * plan.local_size < 4 * plan.size


def test_the_command_knows_every_optimizer() -> None:
    specs = {type(getattr(ct, name)(1e-3)) for name in OPTIMIZERS}
    every = {kind for kind in vars(ct.optim).values() if isinstance(kind, type) and issubclass(kind, ct.OptimizerSpec)}
    assert specs == every - {ct.OptimizerSpec}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"model": "gtp"}, r"model must be one of mlp, .*got model='gtp'. Did you mean gpt\?"),
        ({"model": "bert"}, "Use for example gpt"),
        ({"model": "missing.py"}, "must be a Python file, got missing.py"),
        ({"config": ("dmi=3",)}, r"config must be settings of GPTConfig, got config='dmi=3'. Did you mean dim\?"),
        ({"config": ("qqq=3",)}, "Use one of vocab_size, dim"),
        ({"config": ("dim",)}, "got config='dim'"),
        ({"config": ("dim=[",)}, r"dim must be a number, true, false or a list, got dim='\['"),
        ({"config": ("dim=x",)}, "dim must be an integer, got dim='x'"),
        ({"config": ("dim=3", "n_heads=2")}, "dim must be an even multiple of n_heads"),
        ({"optimizer": "adamv"}, r"optimizer must be one of adafactor, .*got optimizer='adamv'. Did you mean adamw?"),
        ({"optimizer": "lion", "momentum": 0.5}, "momentum must be left out for Lion"),
        ({"optimizer": "sgd", "momentum": 1.5}, r"momentum must be in \[0.0, 1.0\)"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"mesh": "fdsp=2"}, "mesh must be sizes of the axes"),
        ({"mesh": "data=1,fsdp=-1"}, "mesh must give a size to every axis but data, got fsdp=-1"),
        ({"mesh": "tensor=3"}, "tensor must divide the vocab axis"),
        ({"backend": "mxnet"}, "backend must be one of"),
    ],
)
def test_what_cannot_be_estimated(args: dict[str, Any], message: str) -> None:
    options = {"model": "gpt", "backend": "torch"} | args
    with pytest.raises(ct.CrosstrainError, match=message):
        estimate_memory(options.pop("model"), **options)


def test_a_file_has_its_settings_in_itself(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    with pytest.raises(ct.ConfigError, match="config must be empty for a file, got config=dim=3"):
        estimate_memory(str(path), config=("dim=3",), backend="torch")


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        ("gpt", ct.adamw(1e-3), "model must be a config of ct.models or a function .*got a str"),
        (ct.models.GPTConfig, ct.adamw(1e-3), "got the class GPTConfig"),
        (ct.models.GPTConfig(), 1e-3, "optimizer must be an OptimizerSpec, got a float"),
    ],
)
def test_no_model_and_no_optimizer(model: Any, optimizer: Any, message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        ct.estimate_memory(model, optimizer, backend="torch")


@pytest.mark.parametrize("options", [{"mesh": {"fsdp": 8}}, {"average": 0.9}, {"sharding": "fsdp"}], ids=str)
def test_specs_of_another_kind(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ct.ConfigError, match=f"{name} must be an instance of .*, got {name}="):
        ct.estimate_memory(ct.models.MLPConfig(), ct.sgd(0.1), backend="torch", **options)


def test_an_estimate_is_frozen() -> None:
    found = ct.estimate_memory(ct.models.MLPConfig(), ct.sgd(0.1), backend="torch")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.backend = "jax"  # type: ignore[misc]
