"""One torch process of a layout: `worker.py FOLDER`, started by torchrun or alone. Run by test_layouts.py."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts, refusals

import crosstrain as ct


def facts(accelerator: ct.Accelerator) -> dict[str, np.ndarray]:
    """How the batch is split, and what the native pieces are."""
    loader = accelerator.loader(layouts.data_of("resnet9"), batch_size=16, shuffle=True)
    model = ct.models.build("resnet9", layouts.CASES["resnet9"][0], accelerator)
    state = accelerator.prepare(model, ct.sgd(0.1, momentum=0.9))
    step = accelerator.train_step(layouts.loss_fn)
    losses = [step(state, batch)["loss"] for batch in loader]
    objective = next(iter(step._run._gradient._objectives.values()))[()]
    conv = state.model.layer1.conv.weight
    return {
        "processes": np.array([accelerator.process_index, accelerator.process_count]),
        "local batch": np.array(next(iter(loader))["image"].shape),
        "distributed": np.array(type(objective).__name__),
        "channels last": np.array(conv.is_contiguous(memory_format=torch.channels_last)),
        "fused": np.array(all(group["fused"] for group in state.native_optimizer.param_groups)),
        "finite": np.array(np.isfinite(losses).all()),
    }


def main(folder: str) -> None:
    results = layouts.run_all("torch")
    accelerator = ct.Accelerator("torch", precision="bf16")
    results |= {f"facts/{name}": values for name, values in facts(accelerator).items()}
    results |= refusals.collect("torch")
    index = accelerator.process_index
    accelerator.close()
    layouts.leave(Path(folder), index, results)


if __name__ == "__main__":
    main(sys.argv[1])
