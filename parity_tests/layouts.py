"""What every layout of devices trains, so that layouts can be compared: imports neither framework.

Run as a script it trains on the devices and processes it finds, and writes what came out to an `.npz` file.
"""

import os
import sys
from dataclasses import replace
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

FROZEN = "frozen"
CASES[FROZEN] = (ct.models.MLPConfig(hidden=(16,)), {"clip_norm": 0.5})

GENERATOR = ct.models.MLPConfig(in_features=4, hidden=(16,), out_features=64, dropout=0.25)
DISCRIMINATOR = ct.models.MLPConfig(in_features=64, hidden=(16,), out_features=1, dropout=0.25)
KINDS = (*CASES, "adversarial")


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
    layers = (ct.LayerGroup(match=r"^layers\.0", frozen=((2, 4),)),) if kind == FROZEN else ()
    state = accelerator.prepare(model, replace(ct.adamw(ct.one_cycle(1e-2, STEPS)), layers=layers))
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


def generator_loss(generator: Any, batch: Any, ops: ct.Ops, discriminator: Any) -> Any:
    logits = discriminator(generator(batch["noise"]))
    return ops.bce_with_logits(logits, ops.ones_like(logits))


def discriminator_loss(discriminator: Any, batch: Any, ops: ct.Ops, generator: Any) -> Any:
    real, drawn = discriminator(batch["image"]), discriminator(generator(batch["noise"]))
    on_real = ops.bce_with_logits(real, ops.ones_like(real))
    on_drawn = ops.bce_with_logits(drawn, ops.zeros_like(drawn))
    return ct.Loss(on_real.sum + on_drawn.sum, on_real.weight + on_drawn.weight)


def reconstruction_loss(generator: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.mse(generator(batch["noise"]), batch["image"].reshape(-1, 64))


def train_adversarially(backend: str, mesh: ct.MeshSpec | None = None) -> dict[str, np.ndarray]:
    """Two states whose steps take turns, several steps on each of them, and a restart from snapshots in the middle."""
    accelerator = ct.Accelerator(backend, precision="fp64", mesh=mesh)
    generator, discriminator = _players(accelerator)
    judge = accelerator.value_and_grad(discriminator_loss)
    draw = accelerator.train_step(generator_loss, accumulate_steps=2, clip_norm=0.1)
    copy = accelerator.train_step(reconstruction_loss)
    data = data_of("adversarial") | {"noise": np.random.default_rng(0).normal(size=(83, 4))}
    losses = []
    for index, batch in enumerate(accelerator.loader(data, batch_size=16, shuffle=True)):
        metrics, gradients = judge(discriminator, batch, generator)
        discriminator.apply_gradients(gradients, clip_norm=0.5)
        losses += [metrics["loss"], draw(generator, batch, discriminator)["loss"], copy(generator, batch)["loss"]]
        if index == STEPS // 2:
            snapshots = generator.snapshot(), discriminator.snapshot()
            generator, discriminator = _players(accelerator)
            generator.load(snapshots[0])
            discriminator.load(snapshots[1])
    results = {"loss": np.array(losses)}
    for name, state in {"generator": generator, "discriminator": discriminator}.items():
        snapshot = state.snapshot()
        tables = {"param": snapshot.params, "average": snapshot.averages, **snapshot.moments}
        results |= {f"{name}/{kind}/{key}": each for kind, table in tables.items() for key, each in table.items()}
    return results


def _players(accelerator: ct.Accelerator) -> tuple[ct.TrainState, ct.TrainState]:
    generator, discriminator = (ct.models.build("mlp", config, accelerator) for config in (GENERATOR, DISCRIMINATOR))
    return (
        accelerator.prepare(generator, ct.adam(1e-2, betas=(0.5, 0.999)), average=ct.ema(0.9)),
        accelerator.prepare(discriminator, ct.sgd(1e-1, momentum=0.9)),
    )


def worst(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Largest difference of any array, relative to its largest element; infinite for other shapes."""
    assert a.keys() == b.keys()
    if any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max().clip(1e-30)) for name in a)


def run_all(backend: str) -> dict[str, np.ndarray]:
    results = {kind: train(backend, kind) for kind in CASES} | {"adversarial": train_adversarially(backend)}
    return {f"{kind}/{name}": values for kind, found in results.items() for name, values in found.items()}


def leave(folder: Path, index: int, results: dict[str, np.ndarray]) -> None:
    """Writes this process's results and leaves at once: at interpreter exit a rank that is done may abort others."""
    np.savez(folder / f"{index}.npz", **results)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def read(folder: Path, index: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"{index}.npz") as archive:
        return dict(archive)
