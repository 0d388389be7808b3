"""`crosstrain demo`: trains two models on real data on both engines, live, and ends with a verdict."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crosstrain import backends, data, optim, schedules
from crosstrain.accelerator import Accelerator
from crosstrain.errors import require_count, require_folder
from crosstrain.models import GPTConfig, ResNet9Config
from crosstrain.ops import Ops
from crosstrain.parity.compare import Comparison
from crosstrain.parity.recipe import Recipe, Trace, record
from crosstrain.parity.report import write
from crosstrain.parity.tables import comparison_view, report_console, single_view

_CHECKED_STEPS = 50
_CONTEXT = 64


def digits_recipe() -> Recipe:
    """A quarter-size DAWNBench ResNet-9 on scikit-learn's digits, with SGD and a one-cycle rate."""
    split = data.digits()
    return Recipe(
        name="digits, ResNet-9",
        config=ResNet9Config(width=16, image_size=8, in_channels=1),
        train=split.train,
        test=split.test,
        loss_fn=_image_loss,
        optimizer=lambda steps: optim.sgd(
            schedules.one_cycle(0.2, steps), momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        batch_size=64,
        epochs=8,
    )


def bytes_recipe() -> Recipe:
    """A small Llama-style decoder on the bytes of the standard library's own source, with AdamW."""
    text = data.stdlib_bytes(max_bytes=400_000)
    split = len(text) * 9 // 10
    return Recipe(
        name="source code, GPT",
        config=GPTConfig(vocab_size=256, dim=96, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=_CONTEXT),
        train=data.token_windows(text[:split], _CONTEXT),
        test=data.token_windows(text[split:], _CONTEXT),
        loss_fn=_token_loss,
        optimizer=lambda steps: optim.adamw(
            schedules.cosine(2e-3, steps, warmup_steps=steps // 10), betas=(0.9, 0.95), weight_decay=0.1
        ),
        batch_size=32,
        epochs=2,
        clip_norm=1.0,
    )


def _image_loss(model: Any, batch: dict[str, Any], ops: Ops) -> Any:
    logits = model(batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def _token_loss(model: Any, batch: dict[str, Any], ops: Ops) -> Any:
    logits = model(batch["tokens"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def demo(backend: Literal["jax", "torch", "both"] = "both", seeds: int = 3, out: Path = Path("runs/demo")) -> int:
    """Trains a ResNet-9 on digits and a byte-level GPT on source code, on both engines, and compares them.

    Args:
        backend: one engine, or both with a verdict.
        seeds: float32 runs per engine and model.
        out: where parity.html and parity.png are written.

    Returns:
        The exit status: 0 when the engines agree (or only one ran), else 1.
    """
    require_count("seeds", seeds)
    require_folder("out", out)
    console = report_console()
    recipes = (digits_recipe(), bytes_recipe())
    if backend != "both":
        for recipe in recipes:
            console.print(single_view(recipe.name, tuple(_train(recipe, backend, seeds, console))))
        return 0
    engines = ("jax", "torch")
    for engine in engines:
        backends.load(engine)
    comparisons = []
    for recipe in recipes:
        console.rule(recipe.name)
        console.print(f"first {_CHECKED_STEPS} steps in float64 on both engines, same weights and batches ...")
        a, b = (record(recipe, engine, precision="fp64", steps=_CHECKED_STEPS) for engine in engines)
        runs_a, runs_b = (tuple(_train(recipe, engine, seeds, console)) for engine in engines)
        comparison = Comparison(
            name=recipe.name, checks=(a, b), runs=(runs_a, runs_b), test_examples=_test_size(recipe)
        )
        comparisons.append(comparison)
        console.print(comparison_view(comparison))
    environment = {engine: Accelerator(engine).describe() for engine in engines}
    for path in write(comparisons, environment, out):
        console.print(f"wrote {path}")
    failures = [failure for comparison in comparisons for failure in comparison.failures]
    for failure in failures:
        console.print(failure, style="bold red")
    console.print("The engines disagree." if failures else "The engines agree.", style="bold")
    return 1 if failures else 0


def _train(recipe: Recipe, engine: str, seeds: int, console: Any) -> Iterator[Trace]:
    for seed in range(seeds):
        console.print(f"{engine}: training in float32, seed {seed} ...")
        yield record(recipe, engine, seed=seed, progress=True)


def _test_size(recipe: Recipe) -> int:
    """Labels behind an accuracy: examples, or tokens of a language model."""
    source = data.sources.as_source(recipe.test)
    assert source is not None
    labels = source.gather(np.arange(1))["label"]
    return len(source) * math.prod(labels.shape[1:])
