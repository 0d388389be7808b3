"""ZeRO by DeepSpeed in two real processes against one process without it, in float32: DeepSpeed has no float64."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.meshes import zero
from parity_tests.meshes.launching import start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs crosstrain[deepspeed]"),
]
RUNS = [(1, "adamw"), (2, "adamw"), (3, "adamw"), (2, "sgd"), (3, "lion")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


def run(folder: Path, stage: int, optimizer: str) -> dict[str, np.ndarray]:
    file = folder / f"{stage}-{optimizer}.npz"
    if not file.exists():
        start("zero", [str(folder), str(stage), optimizer], 2 if stage else 1)
    return dict(np.load(file))


@pytest.mark.parametrize(("stage", "optimizer"), RUNS)
def test_zero_trains_as_one_process_does(folder: Path, stage: int, optimizer: str) -> None:
    """Losses, norms, weights and moments after 20 steps with micro-batches, clipping and labels that do not count."""
    one, split = run(folder, 0, optimizer), run(folder, stage, optimizer)
    assert one.keys() == split.keys()
    for name, values in one.items():
        # Lion moves by the sign of a number that may be 0 to rounding.
        np.testing.assert_allclose(split[name], values, rtol=1e-5, atol=3e-3 if optimizer == "lion" else 2e-6)


@pytest.mark.parametrize(("stage", "optimizer"), RUNS)
def test_a_state_that_is_brought_back_goes_on_the_same(folder: Path, stage: int, optimizer: str) -> None:
    """By a snapshot and by a native checkpoint; the second half again has the losses of the first time."""
    split = run(folder, stage, optimizer)
    half = split["losses"][zero.STEPS // 2 :, 0]
    np.testing.assert_array_equal(split["loaded"], half)
    np.testing.assert_array_equal(split["native"], half)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_other_engines_go_on_from_its_portable_checkpoint(folder: Path, backend: str, stage: int) -> None:
    split = run(folder, stage, "adamw")
    accelerator: Any = ct.Accelerator(backend)
    state = zero.prepare(accelerator, "adamw")
    accelerator.restore(folder / f"portable-{stage}-adamw", state)
    step = accelerator.train_step(zero.loss_fn, accumulate_steps=2, clip_norm=0.5)
    losses = [step(state, batch)["loss"] for batch in zero.batches(accelerator)[zero.STEPS // 2 :]]
    np.testing.assert_allclose(losses, split["losses"][zero.STEPS // 2 :, 0], rtol=1e-5)


def test_what_flat_parts_cannot_do_is_refused(folder: Path) -> None:
    run(folder, 3, "adamw")
    said = json.loads((folder / "3-adamw.json").read_text())
    for name in ("gradients", "clip_value", "muon", "average", "freeze"):
        assert "with deepspeed" in said[name], name
