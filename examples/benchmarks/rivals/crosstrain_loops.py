"""crosstrain on both engines, with the native models of the raw loops."""

import itertools
from collections.abc import Callable
from typing import Any

import crosstrain as ct
from rivals.workloads import DECAY, MOMENTUM, PEAK, RATE, TOTAL, WORKLOADS

Block = Callable[[int], float]
PER_CALL = 20


def loss_fn(model: Any, batch: Any, ops: Any) -> Any:
    return ops.cross_entropy(model(batch["x"]), batch["y"])


def _optimizer(name: str) -> Any:
    if name == "resnet9":
        return ct.sgd(ct.one_cycle(PEAK, TOTAL), momentum=MOMENTUM, nesterov=True)
    return ct.adamw(RATE, weight_decay=DECAY)


def with_accuracy(model: Any, batch: Any, ops: Any) -> Any:
    logits = model(batch["x"])
    return ops.cross_entropy(logits, batch["y"]), {"accuracy": ops.accuracy(logits, batch["y"])}


def _start(name: str, engine: str, loss: Any = loss_fn, **options: Any) -> tuple[Any, Any, Any]:
    """The step, its state, and batches on the device without end."""
    from importlib import import_module

    accelerator = ct.Accelerator(engine)
    state = accelerator.prepare(import_module(f"rivals.models_{engine}").make(name), _optimizer(name))
    batches = [accelerator.to_device({"x": x, "y": y}) for x, y in WORKLOADS[name].batches()]
    return accelerator.train_step(loss, **options), state, itertools.cycle(batches)


def _single(name: str, engine: str, **options: Any) -> Block:
    step, state, batches = _start(name, engine, **options)

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):
            metrics = step(state, batch)
        return metrics["loss"]

    return block


def jax(name: str) -> Block:
    """The JAX engine."""
    return _single(name, "jax")


def torch(name: str) -> Block:
    """The torch engine."""
    return _single(name, "torch")


def torch_compiled(name: str) -> Block:
    """With whole steps compiled."""
    return _single(name, "torch", compile="step")


def jax_metric(name: str) -> Block:
    """With accuracy beside the loss."""
    return _single(name, "jax", loss=with_accuracy)


def torch_metric(name: str) -> Block:
    """With accuracy beside the loss."""
    return _single(name, "torch", loss=with_accuracy)


def jax_many(name: str) -> Block:
    """Twenty steps in one call."""
    step, state, batches = _start(name, "jax")

    def block(steps: int) -> float:
        for _ in range(steps // PER_CALL):
            metrics = step.many(state, list(itertools.islice(batches, PER_CALL)))
        return metrics[-1]["loss"]

    return block


def _trainer(name: str, engine: str, steps_per_call: int = 1) -> Block:
    """From arrays of the host, with a metric, a progress bar, a log on the disk and callbacks."""
    import tempfile
    from importlib import import_module
    from pathlib import Path

    import numpy as np

    accelerator, workload = ct.Accelerator(engine), WORKLOADS[name]
    state = accelerator.prepare(import_module(f"rivals.models_{engine}").make(name), _optimizer(name))
    inputs, labels = (np.concatenate(each) for each in zip(*workload.batches(), strict=True))
    loader = accelerator.loader({"x": inputs, "y": labels}, batch_size=workload.batch, shuffle=True)
    log = ct.trackers.JsonLines(Path(tempfile.mkdtemp()) / "log.jsonl")
    callbacks = [ct.callbacks.Recorder(), ct.callbacks.NanGuard(), ct.callbacks.TimeBudget(1e6)]
    options = {"callbacks": callbacks, "trackers": [log], "progress": True, "log_every": 48}
    options["steps_per_call"] = steps_per_call
    trainer = ct.Trainer(accelerator, state, with_accuracy, **options)

    def block(steps: int) -> float:
        return trainer.fit(loader, steps=steps).values("loss")[-1]

    return block


def jax_trainer(name: str) -> Block:
    """The whole of a `Trainer`, on JAX."""
    return _trainer(name, "jax")


def torch_trainer(name: str) -> Block:
    """The whole of a `Trainer`, on torch."""
    return _trainer(name, "torch")


def jax_trainer_many(name: str) -> Block:
    """The whole of a `Trainer`, on JAX, sixteen steps in one call."""
    return _trainer(name, "jax", 16)
