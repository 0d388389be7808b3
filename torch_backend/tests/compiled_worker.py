"""One process of a run whose model is compiled: `compiled_worker.py FOLDER`, started by torchrun."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests.conformance.tasks import DROPOUT_MLP, images, loss_fn, prepared

import crosstrain as ct
from crosstrain_torch import step


def main(folder: Path) -> None:
    step.COMPILE_OPTIONS["backend"] = "aot_eager"
    accelerator = ct.Accelerator("torch", precision="fp64")
    found = {}
    for compiled in (False, "model"):
        state = prepared(accelerator, DROPOUT_MLP)
        train = accelerator.train_step(loss_fn, accumulate_steps=2, clip_norm=1.0, compile=compiled)
        loader = accelerator.loader(images(40), batch_size=8)
        found[str(compiled)] = np.array([train(state, batch)["loss"] for batch in loader])
    try:
        accelerator.train_step(loss_fn, compile="step")
    except ct.ConfigError as error:
        found["refused"] = np.array(str(error))
    if accelerator.is_main_process:
        np.savez(folder / "found.npz", **found)
    accelerator.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
