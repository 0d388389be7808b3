"""Training with less memory than the batch wants: `limited.py BACKEND BYTES` prints what fitted, as JSON.

The limit is the system's own (RLIMIT_AS), set when everything is loaded and a small step has run.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

import crosstrain as ct

WIDTH, EXAMPLES = 2048, 32768


def main(backend: str, room: int) -> None:
    accelerator = ct.Accelerator(backend)
    config = ct.models.MLPConfig(in_features=16, hidden=(WIDTH,))
    tried: list[int] = []

    def loss_fn(model, batch, ops):  # type: ignore[no-untyped-def]
        return ops.cross_entropy(model(batch["image"]), batch["label"])

    def step(batch_size: int, accumulate_steps: int) -> float:
        tried.append(batch_size)
        state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(0.1))
        count = batch_size * accumulate_steps
        batch = {"image": np.ones((count, 16), np.float32), "label": np.zeros(count, np.int32)}
        return accelerator.train_step(loss_fn, accumulate_steps=accumulate_steps)(state, batch)["loss"]

    step(8, 1)
    (size,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:"))
    limit = int(size.split()[1]) * 1024 + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    tried.clear()
    loss = ct.find_batch_size(step, accelerator=accelerator, starting_batch_size=EXAMPLES)()
    print(json.dumps({"tried": tried, "loss": loss}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
