"""What a process does in a run under DeepSpeed's ZeRO, or in the same run without it."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.checkpoint import Checkpoints

STEPS = 20
CONFIG = ct.models.GPTConfig(vocab_size=33, dim=16, n_layers=2, n_heads=2, max_seq_len=16)
OPTIMIZERS = {
    "adamw": ct.adamw(ct.one_cycle(1e-2, STEPS), weight_decay=0.1, groups=(ct.undecayed(),)),
    "sgd": ct.sgd(ct.constant(0.1), momentum=0.9, nesterov=True),
    "lion": ct.lion(ct.constant(1e-3), weight_decay=0.1),
}


def loss_fn(model: Any, batch: Any, ops: Any) -> Any:
    """Labels of -100 do not count, so that the parts of a batch weigh differently."""
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


def batches(accelerator: ct.Accelerator) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    own = slice(accelerator.process_index, None, accelerator.process_count)
    found = []
    for _ in range(STEPS):
        tokens = random.integers(0, CONFIG.vocab_size, (8, 17))
        labels = tokens[:, 1:].copy()
        labels[0, :9] = -100
        found.append({"tokens": tokens[own, :-1], "labels": labels[own]})
    return found


def prepare(accelerator: ct.Accelerator, optimizer: str) -> ct.TrainState:
    return accelerator.prepare(ct.models.build("gpt", CONFIG, accelerator), OPTIMIZERS[optimizer])


def main(folder: Path, stage: int, optimizer: str) -> None:
    accelerator = ct.Accelerator("torch", deepspeed=ct.DeepSpeed(stage=stage) if stage else None)
    state = prepare(accelerator, optimizer)
    step = accelerator.train_step(loss_fn, accumulate_steps=2, clip_norm=0.5)
    half, losses, kept = STEPS // 2, [], None
    fail_half_way(accelerator, state)
    checkpoints = Checkpoints(accelerator, folder / f"native-{stage}-{optimizer}")
    for index, batch in enumerate(batches(accelerator)):
        if index == half:
            kept = state.snapshot()
            checkpoints.save(state)
            checkpoints.wait()
            accelerator.export(state, folder / f"portable-{stage}-{optimizer}")
        metrics = step(state, batch)
        losses.append([metrics["loss"], metrics["grad_norm"]])
    evaluated = accelerator.eval_step(loss_fn)(state, batches(accelerator)[0])["loss"]
    end = flat(state.snapshot())
    others = {
        "loaded": resumed(accelerator, state, step, lambda: state.load(kept)),
        "native": resumed(accelerator, state, step, lambda: checkpoints.restore(state)),
    }
    checkpoints.close()
    if accelerator.is_main_process:
        results = {"losses": np.array(losses), "evaluated": np.array(evaluated), **others}
        np.savez(folder / f"{stage}-{optimizer}.npz", **results, **end)
        refused = {} if stage == 0 else refusals(accelerator, state)
        (folder / f"{stage}-{optimizer}.json").write_text(json.dumps(refused))
    accelerator.close()
    sys.stdout.flush()
    if accelerator.process_count > 1:
        os._exit(0)  # a rank may abort while its interpreter ends


def fail_half_way(accelerator: ct.Accelerator, state: ct.TrainState) -> None:
    """A step whose second micro-batch fails: what the first one left is no part of later steps."""
    calls = []

    def failing(model: Any, batch: Any, ops: Any) -> Any:
        calls.append(1)
        return {}["nothing"] if len(calls) == 2 else loss_fn(model, batch, ops)

    with contextlib.suppress(KeyError):
        accelerator.train_step(failing, accumulate_steps=2)(state, batches(accelerator)[0])


def resumed(accelerator: Any, state: Any, step: Any, load: Any) -> np.ndarray:
    """The losses of the second half, by the same state after it was brought back."""
    load()
    return np.array([step(state, batch)["loss"] for batch in batches(accelerator)[STEPS // 2 :]])


def flat(snapshot: ct.Snapshot) -> dict[str, np.ndarray]:
    sections = {name: values for name, values in snapshot.sections().items() if name != "native"}
    return {f"{section}|{name}": array for section, values in sections.items() for name, array in values.items()}


def refusals(accelerator: ct.Accelerator, state: ct.TrainState) -> dict[str, str]:
    """What each attempt that cannot work is told."""
    model = ct.models.build("gpt", CONFIG, accelerator)
    attempts = {
        "gradients": lambda: accelerator.value_and_grad(loss_fn),
        "clip_value": lambda: accelerator.train_step(loss_fn, clip_value=1.0),
        "muon": lambda: accelerator.prepare(model, ct.muon(1e-3)),
        "average": lambda: accelerator.prepare(model, ct.sgd(0.1), average=ct.ema(0.9)),
        "freeze": lambda: state.freeze("output"),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except ct.ConfigError as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
