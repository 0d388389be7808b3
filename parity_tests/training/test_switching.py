"""A run that changes its engine in the middle is the run that does not."""

import functools
from pathlib import Path

import numpy as np
import pytest

import crosstrain as ct

from .matrix import FLOAT64_LIMIT, MODELS, OPTIMIZERS, batch_of, loss_fn

STEPS, PART = 30, 10
ENGINES = ("torch", "jax", "torch")


@functools.cache
def accelerator_of(backend: str) -> ct.Accelerator:
    return ct.Accelerator(backend, precision="fp64")


QUICK = {("mlp", optimizer) for optimizer in OPTIMIZERS} | {("resnet9", "sgd, one-cycle"), ("gpt", "adamw, cosine")}
CASES = [
    pytest.param(model, optimizer, marks=() if (model, optimizer) in QUICK else pytest.mark.slow)
    for model in MODELS
    for optimizer in OPTIMIZERS
]


@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_torch_then_jax_then_torch(model: str, optimizer: str, tmp_path: Path) -> None:
    whole, weights = losses(model, optimizer, ("torch",) * 3, tmp_path / "torch")
    mixed, others = losses(model, optimizer, ENGINES, tmp_path / "mixed")
    np.testing.assert_allclose(mixed, whole, rtol=FLOAT64_LIMIT)
    for name, values in weights.params.items():
        np.testing.assert_allclose(others.params[name], values, rtol=0, atol=FLOAT64_LIMIT * np.abs(values).max())


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


def run(accelerator: ct.Accelerator, state: ct.TrainState, model: str, steps: range) -> list[float]:
    """Losses of some steps."""
    step = accelerator.train_step(loss_fn)
    return [step(state, batch_of(model, index))["loss"] for index in steps]


def losses(model: str, optimizer: str, engines: tuple[str, ...], folder: Path) -> tuple[np.ndarray, ct.Snapshot]:
    """Losses of a run whose parts hand over through checkpoints, and its last state."""
    found: list[float] = []
    for index, backend in enumerate(engines):
        accelerator = accelerator_of(backend)
        built = ct.models.build(model, MODELS[model], accelerator)
        state = accelerator.prepare(built, OPTIMIZERS[optimizer](STEPS), average=ct.ema(0.99))
        if index:
            accelerator.restore(folder / str(index - 1), state)
        found += run(accelerator, state, model, range(index * PART, (index + 1) * PART))
        accelerator.export(state, folder / str(index))
    return np.array(found), state.snapshot()
