"""Metrics that are derived from sums, over padded batches on whatever devices and processes there are.

Run as `sharded_metrics.py BACKEND DEVICES FOLDER` each process writes them to a JSON file of its own: over DEVICES
virtual ones on JAX, over torchrun's processes on torch.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct

CLASSES = 3


def examples() -> dict[str, np.ndarray]:
    """21 examples: of batches of 8 the last has 5, so that on several devices some see padding only."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, CLASSES, (21, 4))
    tokens[np.arange(4) > np.arange(21)[:, None] % 4] = -100
    logits = generator.normal(size=(21, 4, CLASSES)).round(1)
    binary = generator.random(21) < 0.3
    return {"logits": logits, "tokens": tokens.astype(np.int32), "score": generator.normal(size=21), "positive": binary}


def loss_fn(_: Any, batch: Any, ops: ct.Ops) -> Any:
    """Nothing of a model, so that any state will do."""
    return ops.cross_entropy(batch["logits"], batch["tokens"]), {
        "top2": ops.top_k_accuracy(batch["logits"], batch["tokens"], k=2),
        **ops.f1_counts(batch["score"] > 0, batch["positive"]),
        **ops.f1_counts(batch["logits"].argmax(-1), batch["tokens"], classes=CLASSES, name="token"),
    }


def scores(values: Any) -> dict[str, float]:
    return {
        "perplexity": ct.perplexity(values["loss"]),
        "top2": values["top2"],
        "f1": ct.f1(values),
        "macro": ct.f1(values, name="token"),
        "micro": ct.f1(values, name="token", average="micro"),
    }


def measure(backend: str) -> dict[str, float]:
    accelerator = ct.Accelerator(backend, precision="fp64")
    state = accelerator.prepare(ct.models.build("mlp", None, accelerator))
    evaluate, total = accelerator.eval_step(loss_fn), ct.MetricSum()
    for batch in accelerator.loader(examples(), batch_size=8):
        total.add(evaluate(state, batch))
    return {"devices": accelerator.device_count, **scores(total.result())}


def main(backend: str, devices: int, folder: Path) -> None:
    if backend == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
    results = measure(backend)
    accelerator = ct.Accelerator(backend)
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(results))
    accelerator.wait_for_everyone()
    # At interpreter exit a process that is done may abort the others.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
