"""One torch process of a mesh: `mesh_worker.py FOLDER`, started by torchrun or alone. Run by test_meshes.py."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts
from parity_tests.meshes import cases, own_torch
from parity_tests.meshes.odd_torch import Tied, odd

import crosstrain as ct

MESHES = {"data": ct.MeshSpec(), "fsdp": ct.MeshSpec(fsdp=-1, data=1), "tensor": ct.MeshSpec(tensor=-1, data=1)}


def started(mesh: ct.MeshSpec) -> dict[str, np.ndarray]:
    """A model made whole and one that a function makes: how they start, and how they stand after two steps."""
    case, results = cases.CASES["own"], {}
    for name, given in {"whole": Tied, "by function": lambda: lambda: Tied()}.items():
        accelerator = ct.Accelerator("torch", precision="fp64", mesh=mesh, sharding=cases.OWN_RULES)
        state = accelerator.prepare(given(), ct.adamw(1e-2))
        start = state.snapshot()
        cases.train(accelerator, state, case, 2)
        for when, snapshot in {"start": start, "end": state.snapshot()}.items():
            tables = {**snapshot.params, **snapshot.buffers}
            results |= {f"{name}/{when}/{key}": values for key, values in tables.items()}
    return results


def paired(mesh: ct.MeshSpec) -> dict[str, np.ndarray]:
    config = cases.CASES["gpt"].config
    accelerator = ct.Accelerator("torch", mesh=mesh)
    states = {
        "whole": accelerator.prepare(ct.models.build("gpt", config, accelerator)),
        "by function": accelerator.prepare(lambda: ct.models.build("gpt", config, accelerator)),
    }
    return {f"{name}/{key}": each for name, state in states.items() for key, each in state.snapshot().params.items()}


def low_precision(mesh: ct.MeshSpec) -> dict[str, np.ndarray]:
    """bfloat16 with torch's own BatchNorm, whose statistics stay float32, and a model whose dropout is counted."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    accelerator = ct.Accelerator("torch", precision="bf16", mesh=mesh)
    gpt = ct.models.build("gpt", cases.CASES["gpt"].config, accelerator)
    results = {}
    for name, model in {"mlp": net, "gpt": gpt}.items():
        case = cases.CASES[name]
        state = accelerator.prepare(model, ct.adamw(1e-2))
        results[f"{name}/loss"] = cases.train(accelerator, state, case, 4)["loss"]
        batch = next(iter(accelerator.loader(cases.data_of(case), batch_size=16)))
        kinds: list[str] = []

        def seen(model: Any, batch: Any, ops: ct.Ops, kinds: list[str] = kinds) -> Any:
            kinds.append(f"{cases.logits_fn(model, batch, ops).dtype}")
            return cases.loss_fn(model, batch, ops)

        accelerator.eval_step(seen)(state, batch)
        results[f"{name}/types"] = np.array([*kinds, *sorted({f"{param.dtype}" for param in state.params.values()})])
    return results


def penalised(model: nn.Module, batch: Any, ops: ct.Ops) -> Any:
    loss, _ = cases.loss_fn(model, batch, ops)
    return ct.Loss(loss.sum + sum(param.square().sum() for param in model.parameters()), loss.weight)


def in_pieces(model: nn.Module, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model.head(model.embed(batch["tokens"])), batch["label"])


def refused() -> dict[str, np.ndarray]:
    fsdp = ct.Accelerator("torch", mesh=MESHES["fsdp"])
    tensor = ct.Accelerator("torch", mesh=MESHES["tensor"], sharding=cases.OWN_RULES)
    model = own_torch.make()
    state = fsdp.prepare(model, ct.sgd(0.1))
    batch = {name: values[:8] for name, values in cases.data_of(cases.CASES["own"]).items()}
    attempts: dict[str, Callable[[], Any]] = {
        "twice": lambda: tensor.prepare(model),
        "penalty": lambda: fsdp.train_step(penalised)(state, batch),
        "pieces": lambda: fsdp.train_step(in_pieces)(state, batch),
        "probe": lambda: tensor.probe_step(cases.loss_fn),
        "no reset": lambda: fsdp.prepare(lambda: own_torch.make()),
        "no model": lambda: fsdp.prepare(lambda: 3),
        "meshes": lambda: ct.Accelerator("torch", mesh=MESHES["tensor" if fsdp.process_index else "fsdp"]),
    }
    results = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            results[name] = np.array("nothing was refused")
        except ct.CrosstrainError as error:
            results[name] = np.array(f"{type(error).__name__}: {error}")
    return results


def recovered() -> dict[str, np.ndarray]:
    """A loss after a step that failed and other weights, and the same on another mesh."""
    batch = {name: values[:8] for name, values in cases.data_of(cases.CASES["own"]).items()}
    losses = []
    for name in ("fsdp", "data"):
        accelerator = ct.Accelerator("torch", mesh=MESHES[name])
        state = accelerator.prepare(own_torch.make(), ct.sgd(0.1))
        if name == "fsdp":
            with contextlib.suppress(KeyError):
                accelerator.train_step(lambda model, batch, ops: batch["nothing"])(state, batch)
            with contextlib.suppress(ct.LossError):
                accelerator.train_step(penalised)(state, batch)
        start = state.snapshot()
        state.load(dataclasses.replace(start, params={key: np.full_like(v, 0.1) for key, v in start.params.items()}))
        losses.append(accelerator.train_step(cases.loss_fn)(state, batch)["loss"])
    return {"loss": np.array(losses)}


def left_behind() -> dict[str, np.ndarray]:
    """Gradient norms of a step after nothing, the user's own backward pass, and a step that failed half way."""
    batch = {name: values[:8] for name, values in cases.data_of(cases.CASES["own"]).items()}
    results = {}
    for name in ("fsdp", "data"):
        accelerator = ct.Accelerator("torch", precision="fp64", mesh=MESHES[name])

        def failing(model: Any, batch: Any, ops: ct.Ops, calls: list[int] = []) -> Any:  # noqa: B006
            calls.append(1)
            return {}["nothing"] if len(calls) % 4 == 0 else cases.loss_fn(model, batch, ops)

        def own(state: ct.TrainState, accelerator: ct.Accelerator = accelerator) -> None:
            state.model(accelerator.to_device(batch)["tokens"]).square().sum().backward()

        def failed(state: ct.TrainState, accelerator: ct.Accelerator = accelerator, failing: Any = failing) -> None:
            with contextlib.suppress(KeyError):
                accelerator.train_step(failing, accumulate_steps=4)(state, batch)

        step = accelerator.train_step(cases.loss_fn, accumulate_steps=2, grad_norm=True)
        norms = []
        for before in (lambda state: None, own, failed):
            torch.manual_seed(0)
            state = accelerator.prepare(own_torch.make(), ct.sgd(0.0))
            step(state, batch)  # the first step of DDP is reduced without it
            before(state)
            norms.append(step(state, batch)["grad_norm"])
        results[name] = np.array(norms)
    return results


def gathered() -> dict[str, np.ndarray]:
    results = {}
    for name, mesh in MESHES.items():
        accelerator = ct.Accelerator("torch", mesh=mesh)
        own = np.arange(2) + 10 * accelerator.process_index
        results[name] = accelerator.gather_for_metrics(own, {})
    return results


def main(folder: str) -> None:
    results = {f"{name}/started": started(mesh) for name, mesh in MESHES.items()}
    results |= {f"{name}/paired": paired(mesh) for name, mesh in MESHES.items()}
    results |= {f"{name}/low": low_precision(mesh) for name, mesh in MESHES.items() if name != "tensor"}
    results |= {
        f"{name}/odd {size}": odd(MESHES[name], size) for name in ("fsdp", "tensor") for size in (0, 100, 10**6)
    }
    results |= {"refused": refused(), "recovered": recovered(), "left": left_behind(), "gathered": gathered()}
    index = ct.Accelerator("torch").process_index
    layouts.leave(Path(folder), index, {f"{key}|{n}": v for key, found in results.items() for n, v in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
