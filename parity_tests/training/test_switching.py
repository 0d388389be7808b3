"""A run that changes its engine in the middle is the run that does not."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.parity import relative_difference
from crosstrain.parity.envelope import ULP, nudged
from crosstrain.parity.free_run import FreeRun

from .matrix import FLOAT64_LIMIT, MODELS, OPTIMIZERS, batch_of, loss_fn

STEPS, PART = 30, 10
# Rounding grows to 1e-5 within 20 steps of a ResNet-9 in float32, so hand-overs come earlier there.
SHORT_PART, SEEDS = 5, 16
ENGINES = ("torch", "jax", "torch")


@functools.cache
def accelerator_of(backend: str, precision: str = "fp64") -> ct.Accelerator:
    return ct.Accelerator(backend, precision=precision)


QUICK = {("mlp", optimizer) for optimizer in OPTIMIZERS} | {("resnet9", "sgd, one-cycle"), ("gpt", "adamw, cosine")}
QUICK_FLOAT32 = {("mlp", "adamw, cosine"), ("mlp", "muon, warm-up-stable-decay")}


def cases(quick: set[tuple[str, str]]) -> list[Any]:
    """Every paired model with every optimizer."""
    pairs = itertools.product(MODELS, OPTIMIZERS)
    return [pytest.param(*pair, marks=() if pair in quick else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("model", "optimizer"), cases(QUICK))
def test_torch_then_jax_then_torch(model: str, optimizer: str, tmp_path: Path) -> None:
    whole, weights = losses(model, optimizer, ("torch",) * 3, tmp_path / "torch")
    mixed, others = losses(model, optimizer, ENGINES, tmp_path / "mixed")
    np.testing.assert_allclose(mixed, whole, rtol=FLOAT64_LIMIT)
    for name, values in weights.params.items():
        np.testing.assert_allclose(others.params[name], values, rtol=0, atol=FLOAT64_LIMIT * np.abs(values).max())


@pytest.mark.parametrize(("model", "optimizer"), cases(QUICK_FLOAT32))
def test_in_float32_the_run_stays_within_its_own_rounding(model: str, optimizer: str, tmp_path: Path) -> None:
    """The envelope is drawn by runs on torch alone, whose weights start one unit in the last place away."""
    mixed, _ = losses(model, optimizer, ENGINES, tmp_path, precision="fp32", part=SHORT_PART)
    found = free_run(model, optimizer, mixed)
    assert found.multiple <= 1.0
    # Steps of all parts are among those that were compared.
    assert found.horizon > 2 * SHORT_PART


def test_the_envelope_shows_a_hand_over_without_moments(tmp_path: Path) -> None:
    mixed, _ = losses("mlp", "adamw, cosine", ENGINES, tmp_path, precision="fp32", part=SHORT_PART, forget=True)
    assert free_run("mlp", "adamw, cosine", mixed).multiple > 10


def free_run(model: str, optimizer: str, mixed: np.ndarray) -> FreeRun:
    """Losses of a run with hand-overs against those of torch alone, and what nudged rounding makes of these."""
    accelerator, runs = accelerator_of("torch", "fp32"), []
    for seed in (None, *range(SEEDS)):
        state = prepared(accelerator, model, optimizer)
        if seed is not None:
            state.load(nudged(state.snapshot(), ULP["fp32"], seed))
        runs.append(np.array(run(accelerator, state, model, range(3 * SHORT_PART))))
    whole, *others = runs
    apart = np.stack([relative_difference(whole, each) for each in others])
    return FreeRun(difference=relative_difference(whole, mixed), nudged=apart, ulp=ULP["fp32"])


@pytest.mark.parametrize(("first", "second"), [("torch", "jax"), ("jax", "torch")])
def test_the_other_engine_makes_the_state_anew(first: str, second: str, tmp_path: Path) -> None:
    accelerator, other = accelerator_of(first), accelerator_of(second)
    optimizer = ct.muon(ct.one_cycle(0.02, 20), momentum=ct.one_cycle_momentum(20), groups=(ct.undecayed(),))
    config = ct.models.MLPConfig(hidden=(16, 16), dropout=0.5)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), optimizer, average=ct.swa(1))
    run(accelerator, state, "mlp", range(3))
    revived = other.restore(accelerator.export(state, tmp_path / "checkpoint"))
    expected = run(accelerator, state, "mlp", range(3, 8))
    np.testing.assert_allclose(run(other, revived, "mlp", range(3, 8)), expected, rtol=FLOAT64_LIMIT)
    for name, values in state.snapshot().averages.items():
        np.testing.assert_allclose(revived.snapshot().averages[name], values, rtol=0, atol=1e-10 * np.abs(values).max())


def prepared(accelerator: ct.Accelerator, model: str, optimizer: str) -> ct.TrainState:
    built = ct.models.build(model, MODELS[model], accelerator)
    return accelerator.prepare(built, OPTIMIZERS[optimizer](STEPS), average=ct.ema(0.99))


def run(accelerator: ct.Accelerator, state: ct.TrainState, model: str, steps: range) -> list[float]:
    """Losses of some steps."""
    step = accelerator.train_step(loss_fn)
    return [step(state, batch_of(model, index))["loss"] for index in steps]


def losses(
    model: str,
    optimizer: str,
    engines: tuple[str, ...],
    folder: Path,
    *,
    precision: str = "fp64",
    part: int = PART,
    forget: bool = False,
) -> tuple[np.ndarray, ct.Snapshot]:
    """Losses of a run whose parts hand over through checkpoints, and its last state; `forget` leaves moments behind."""
    found: list[float] = []
    for index, backend in enumerate(engines):
        accelerator = accelerator_of(backend, precision)
        state = prepared(accelerator, model, optimizer)
        if index:
            opened = accelerator.restore(folder / str(index - 1), state)
            if forget:
                state = prepared(accelerator, model, optimizer)
                state.load(dataclasses.replace(opened.snapshot, moments={}))
        found += run(accelerator, state, model, range(index * part, (index + 1) * part))
        accelerator.export(state, folder / str(index))
    return np.array(found), state.snapshot()
