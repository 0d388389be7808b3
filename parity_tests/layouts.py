"""What every layout of devices trains, so that layouts can be compared: imports neither framework.

Run as a script it trains on the devices and processes it finds, and writes what came out to an `.npz` file.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct

STEPS = 6
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": (ct.models.MLPConfig(hidden=(16,), dropout=0.5), {"clip_norm": 0.5}),
    "resnet9": (ct.models.ResNet9Config(width=2, image_size=8, in_channels=1), {}),
    "gpt": (
        ct.models.GPTConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, max_seq_len=8, dropout=0.1),
        {"accumulate_steps": 2, "clip_norm": 0.5},
    ),
}


def data_of(kind: str) -> dict[str, np.ndarray]:
    """83 examples: with batches of 16 the last one holds 3, so most devices see nothing but padding in it."""
    if kind != "gpt":
        return {name: values[:83] for name, values in ct.data.digits().train.items()}
    drawn = np.random.default_rng(0).integers(0, 32, (83, 9)).astype(np.int32)
    labels = np.where(np.arange(8) >= 2 + np.arange(83)[:, None] % 7, -100, drawn[:, 1:]).astype(np.int32)
    return {"tokens": drawn[:, :-1], "label": labels}


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    logits = model(batch["tokens"] if "tokens" in batch else batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def logits_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return model(batch["tokens"] if "tokens" in batch else batch["image"])


def train(backend: str, kind: str) -> dict[str, np.ndarray]:
    """Losses, gradient norms, weights, buffers, evaluation and predictions of one case in float64."""
    config, options = CASES[kind]
    accelerator = ct.Accelerator(backend, precision="fp64")
    loader = accelerator.loader(data_of(kind), batch_size=16, shuffle=True)
    model = ct.models.build(config.kind, config, accelerator)
    state = accelerator.prepare(model, ct.adamw(ct.one_cycle(1e-2, STEPS)))
    step = accelerator.train_step(loss_fn, grad_norm=True, **options)
    metrics = [step(state, batch) for batch in loader]
    trainer = ct.Trainer(accelerator, state, loss_fn, progress=False)
    plain = accelerator.loader(data_of(kind), batch_size=32)
    evaluation = trainer.evaluate(plain)
    snapshot = state.snapshot()
    return {
        "loss": np.array([each["loss"] for each in metrics]),
        "grad_norm": np.array([each["grad_norm"] for each in metrics]),
        "accuracy": np.array([each["accuracy"] for each in metrics]),
        "evaluation": np.array([evaluation["loss"], evaluation["accuracy"]]),
        "prediction": trainer.predict(plain, logits_fn)["prediction"],
        **{f"param/{name}": values for name, values in snapshot.params.items()},
        **{f"buffer/{name}": values for name, values in snapshot.buffers.items()},
    }


def worst(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Largest difference of any array, relative to its largest element; infinite for other shapes."""
    assert a.keys() == b.keys()
    if any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max().clip(1e-30)) for name in a)


def run_all(backend: str) -> dict[str, np.ndarray]:
    return {f"{kind}/{name}": values for kind in CASES for name, values in train(backend, kind).items()}


def leave(folder: Path, index: int, results: dict[str, np.ndarray]) -> None:
    """Writes this process's results and leaves at once: at interpreter exit a rank that is done may abort others."""
    np.savez(folder / f"{index}.npz", **results)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def read(folder: Path, index: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"{index}.npz") as archive:
        return dict(archive)
