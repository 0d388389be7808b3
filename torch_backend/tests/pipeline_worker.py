"""One process of a pipeline of two stages: `pipeline_worker.py FOLDER FSDP`, started by torchrun.

Run by test_pipeline.py.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts
from parity_tests.meshes import cases, own_torch
from parity_tests.meshes.odd_torch import noisy

import crosstrain as ct
from crosstrain_torch.shards import local

CASE = cases.CASES["gpt"]
PIPELINE = ct.MeshSpec(data=1, fsdp=int(sys.argv[2]), pipeline=2)


def batch_of(examples: int = 8) -> dict[str, np.ndarray]:
    return {name: values[:examples] for name, values in cases.data_of(CASE).items()}


def prepared(mesh: ct.MeshSpec | None, precision: str = "fp64") -> tuple[ct.Accelerator, ct.TrainState]:
    accelerator = ct.Accelerator("torch", precision=precision, mesh=mesh)
    return accelerator, accelerator.prepare(ct.models.build("gpt", CASE.config, accelerator), ct.adamw(1e-2))


def made(accelerator: ct.Accelerator) -> dict[str, np.ndarray]:
    """A model made by a function beside the one made whole, and the elements that this process has memory for."""
    states = {
        "whole": accelerator.prepare(ct.models.build("gpt", CASE.config, accelerator), ct.adamw(1e-2)),
        "by function": accelerator.prepare(lambda: ct.models.build("gpt", CASE.config, accelerator), ct.adamw(1e-2)),
    }
    results = {f"{name}/{key}": each for name, state in states.items() for key, each in state.snapshot().params.items()}
    for name, state in states.items():
        held = sum(local(param).numel() for param in state.model.parameters() if not param.is_meta)
        kept = [each for moments in state.native_optimizer.state.values() for each in moments.values() if each.ndim]
        moments = sum(each.numel() for each in kept if not each.is_meta)
        results[f"held {name}"] = np.array([held, moments, state.sharding_plan.local_size, state.sharding_plan.size])
    return results


def low(mesh: ct.MeshSpec | None) -> dict[str, np.ndarray]:
    losses = []
    for precision in ("bf16", "bf16-autocast"):
        accelerator, state = prepared(mesh, precision)
        losses.append(cases.train(accelerator, state, CASE, 4)["loss"])
    return {"loss": np.array(losses)}


def never(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return torch.zeros(())


def twice(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["tokens"]) + model(batch["tokens"]), batch["label"])


def in_pieces(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model.tok_embeddings(batch["tokens"]), batch["label"])


def no_loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return model(batch["tokens"])


def too_long(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["tokens"].repeat(1, 2)), batch["label"])


class Lookalike(own_torch.Tagger):
    """Has the config of a paired model, and no stages."""

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(CASE.config, n_layers=2)


def refused() -> dict[str, np.ndarray]:
    accelerator, state = prepared(PIPELINE)
    second = prepared(PIPELINE)[1]
    odd = replace(CASE.config, n_layers=3)

    def step(loss_fn: Any, *others: ct.TrainState, **options: Any) -> Any:
        return accelerator.train_step(loss_fn, **options)(state, batch_of(), *others)

    attempts: dict[str, Callable[[], Any]] = {
        "never": lambda: step(never),
        "twice": lambda: step(twice),
        "pieces": lambda: step(in_pieces),
        "no loss": lambda: step(no_loss),
        "too long": lambda: step(too_long),
        "others": lambda: step(cases.loss_fn, second),
        "others, evaluated": lambda: accelerator.eval_step(cases.loss_fn)(state, batch_of(), second),
        "twice, evaluated": lambda: accelerator.eval_step(twice)(state, batch_of()),
        "predictions": lambda: accelerator.predict_step(lambda model, batch, ops: 3)(state, batch_of()),
        "micro-batches": lambda: step(cases.loss_fn, accumulate_steps=3),
        "probe": lambda: accelerator.probe_step(cases.loss_fn),
        "outside": lambda: state.model(torch.zeros(1, 8, dtype=torch.int64)),
        "layers": lambda: accelerator.prepare(ct.models.build("gpt", odd, accelerator)),
        "mlp": lambda: accelerator.prepare(ct.models.build("mlp", None, accelerator)),
        "resnet9": lambda: accelerator.prepare(ct.models.build("resnet9", None, accelerator)),
        "own": lambda: accelerator.prepare(own_torch.make()),
        "lookalike": lambda: accelerator.prepare(Lookalike()),
    }
    results = {}
    for name, attempt in attempts.items():
        results[name] = np.array("nothing was refused")
        try:
            attempt()
        except ct.CrosstrainError as error:
            results[name] = np.array(f"{type(error).__name__}: {error}")
    # After all of this, a step is that of a state that nothing has happened to.
    fresh = accelerator.train_step(cases.loss_fn)(second, batch_of())
    results["after"] = np.array([step(cases.loss_fn)["loss"], fresh["loss"]])
    return results


def main(folder: str) -> None:
    accelerator = ct.Accelerator("torch", mesh=PIPELINE)
    results = {"made": made(accelerator), "refused": refused()}
    results |= {"noisy": noisy(PIPELINE)}
    results |= {f"low {name}": low(mesh) for name, mesh in {"data": ct.MeshSpec(), "pipeline": PIPELINE}.items()}
    flat = {f"{key}|{name}": values for key, found in results.items() for name, values in found.items()}
    layouts.leave(Path(folder), accelerator.process_index, flat)


if __name__ == "__main__":
    main(sys.argv[1])
