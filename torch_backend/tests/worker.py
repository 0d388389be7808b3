"""One torch process of a layout: `worker.py FOLDER`, started by torchrun or alone. Run by test_layouts.py."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts, refusals

import crosstrain as ct
from crosstrain_torch.ddp import Replicas


def facts(accelerator: ct.Accelerator) -> dict[str, np.ndarray]:
    """How the batch is split, and what the native pieces are."""
    loader = accelerator.loader(layouts.data_of("resnet9"), batch_size=16, shuffle=True)
    model = ct.models.build("resnet9", layouts.CASES["resnet9"][0], accelerator)
    state = accelerator.prepare(model, ct.sgd(0.1, momentum=0.9))
    step = accelerator.train_step(layouts.loss_fn)
    losses = [step(state, batch)["loss"] for batch in loader]
    made = next(iter(step._run._gradient._objectives.values()))[()]
    objective = made.objective(next(iter(loader))) if isinstance(made, Replicas) else made
    conv = state.model.layer1.conv.weight
    return {
        "processes": np.array([accelerator.process_index, accelerator.process_count]),
        "local batch": np.array(next(iter(loader))["image"].shape),
        "distributed": np.array(type(objective).__name__),
        "channels last": np.array(conv.is_contiguous(memory_format=torch.channels_last)),
        "fused": np.array(all(group["fused"] for group in state.native_optimizer.param_groups)),
        "finite": np.array(np.isfinite(losses).all()),
    }


def native_batch_norm() -> dict[str, np.ndarray]:
    """A user's own model with torch's BatchNorm, images first and then vectors."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 8, bias=False),
        torch.nn.BatchNorm1d(8, affine=False, momentum=None),
        torch.nn.Linear(8, 10),
    )
    accelerator = ct.Accelerator("torch", precision="fp64")
    state = accelerator.prepare(model, ct.sgd(1e-1, momentum=0.9))
    step = accelerator.train_step(channels_first_loss)
    loader = accelerator.loader(layouts.data_of("resnet9"), batch_size=16, shuffle=True, drop_last=True)
    losses = [step(state, batch)["loss"] for batch in loader]
    evaluated = accelerator.eval_step(channels_first_loss)(state, next(iter(loader)))["loss"]
    snapshot = state.snapshot()
    return {"loss": np.array(losses), "evaluated": np.array(evaluated), **snapshot.params, **snapshot.buffers}


def channels_first_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], ops: ct.Ops) -> ct.Loss:
    return ops.cross_entropy(model(batch["image"].permute(0, 3, 1, 2)), batch["label"])


class Partial(torch.nn.Module):
    """Experts by the example's first pixel, one that none gets, a head that only a metric reads, and one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(64, 8)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 10) for _ in range(5))
        self.read = torch.nn.Linear(8, 10)
        self.unused = torch.nn.Linear(8, 10)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = self.body(batch["image"].flatten(1))
        out = x.new_zeros(len(x), 10)
        for index, expert in enumerate(self.experts):
            mine = batch["label"] // 3 == index
            if mine.any():
                out[mine] = expert(x[mine])
        return out


def partial_loss(model: Partial, batch: dict[str, torch.Tensor], ops: ct.Ops) -> tuple[ct.Loss, dict[str, ct.Loss]]:
    read = ops.cross_entropy(model.read(model.body(batch["image"].flatten(1))), batch["label"])
    return ops.cross_entropy(model(batch), batch["label"]), {"read": read}


def partly_reached() -> dict[str, np.ndarray]:
    """A model of which the loss reaches other parameters in every step and process, with weight decay and clipping."""
    torch.manual_seed(0)
    accelerator = ct.Accelerator("torch", precision="fp64")
    state = accelerator.prepare(Partial(), ct.adamw(1e-2, weight_decay=0.1))
    step = accelerator.train_step(partial_loss, accumulate_steps=2, clip_norm=0.5)
    loader = accelerator.loader(layouts.data_of("resnet9"), batch_size=16, shuffle=True)
    metrics = [step(state, batch) for batch in loader]
    made = next(iter(step._run._gradient._objectives.values()))[()]
    objective = made.objective(next(iter(loader))) if isinstance(made, Replicas) else made
    snapshot = state.snapshot()
    return {
        "loss": np.array([[each["loss"], each["read"], each["grad_norm"]] for each in metrics]),
        "finds unused": np.array(float(getattr(objective, "find_unused_parameters", True))),
        **snapshot.params,
        **{f"{slot}/{name}": values for slot, kept in snapshot.moments.items() for name, values in kept.items()},
    }


def no_longer_reached() -> str:
    """What a step says whose loss leaves out a layer that the first one reached."""
    accelerator = ct.Accelerator("torch")
    calls = []

    def forgetful(model: torch.nn.Module, batch: dict[str, torch.Tensor], ops: ct.Ops) -> ct.Loss:
        calls.append(len(calls))
        x = model[0](batch["image"].flatten(1))
        return ops.cross_entropy(model[1](x) if len(calls) < 3 else x, batch["label"])

    state = accelerator.prepare(torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.Linear(10, 10)), ct.sgd(0.1))
    step = accelerator.train_step(forgetful)
    try:
        for batch in accelerator.loader(layouts.data_of("resnet9"), batch_size=16):
            step(state, batch)
    except ct.CrosstrainError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def main(folder: str) -> None:
    results = layouts.run_all("torch")
    accelerator = ct.Accelerator("torch", precision="bf16")
    results |= {f"facts/{name}": values for name, values in facts(accelerator).items()}
    results |= {f"native/{name}": values for name, values in native_batch_norm().items()}
    results |= {f"partly/{name}": values for name, values in partly_reached().items()}
    results["forgotten"] = np.array(no_longer_reached())
    results |= refusals.collect("torch")
    index = accelerator.process_index
    accelerator.close()
    layouts.leave(Path(folder), index, results)


if __name__ == "__main__":
    main(sys.argv[1])
