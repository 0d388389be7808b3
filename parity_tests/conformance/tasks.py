"""Small tasks that the conformance tests train: neutral models, losses and batches. Imports neither framework."""

import importlib
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import Run

MLP = ct.models.MLPConfig(hidden=(16,), activation="gelu")
DROPOUT_MLP = ct.models.MLPConfig(hidden=(16,), dropout=0.5)
RESNET9 = ct.models.ResNet9Config(width=2, image_size=8, in_channels=1)
GPT = ct.models.GPTConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, max_seq_len=8)

ADAM = ct.adamw(ct.cosine(1e-2, 20), weight_decay=0.1)
SAVED = [
    pytest.param(MLP, optimizer, id=f"mlp-{type(optimizer).__name__}")
    for optimizer in (ct.sgd(0.1, momentum=0.9), ADAM, ct.muon(0.02), ct.adafactor(1e-2), ct.nadam(1e-2))
] + [pytest.param(RESNET9, ADAM, id="resnet9"), pytest.param(GPT, ct.muon(0.02), id="gpt")]
"""Models and optimizers with every kind of array that a checkpoint holds."""


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    train = ct.data.digits(seed=seed).train
    return {name: values[:count] for name, values in train.items()}


def tokens(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).integers(0, 32, (count, 9)).astype(np.int32)
    return {"tokens": drawn[:, :-1], "label": drawn[:, 1:].copy()}


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    logits = model(batch["tokens"] if "tokens" in batch else batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def logits_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return model(batch["tokens"] if "tokens" in batch else batch["image"])


class InterruptOnce(ct.Callback):
    """Ends the first `fit` that comes to its step `at`, as somebody at a keyboard does."""

    def __init__(self, at: int) -> None:
        self._at, self._left = at, 1

    def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
        if run.step == self._at and self._left:
            self._left -= 1
            raise KeyboardInterrupt


def prepared(accelerator: ct.Accelerator, config: Any, optimizer: Any = None, **options: Any) -> ct.TrainState:
    model = ct.models.build(config.kind, config, accelerator)
    return accelerator.prepare(model, optimizer or ct.sgd(0.1, momentum=0.9), **options)


def native(backend: str) -> Any:
    """The module of hand-written models of one engine, imported only when that engine is under test."""
    return importlib.import_module(f".native_{backend}", __package__)


def worst(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max().clip(1e-30)) for name in a)
