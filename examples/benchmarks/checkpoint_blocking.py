"""How long a save keeps training waiting: crosstrain's checkpoints against the framework's own asynchronous save.

    python examples/benchmarks/checkpoint_blocking.py --backend torch

The model is an MLP of 99 million parameters with AdamW (1.2 GB of state). The rival on torch is
`torch.distributed.checkpoint.async_save` of the same tensors, on JAX `orbax.checkpoint.AsyncCheckpointer` with its
defaults. What counts is the time until the call returns, and what the step after it takes longer than a step alone.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import crosstrain as ct
from crosstrain.checkpoint import Checkpoints

SAVES = 3


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["image"]), batch["label"])


def dcp_save(state):
    """Begins a save to a folder, and what waits for it."""
    import torch.distributed.checkpoint as dcp

    changing, steady = state.tensors()
    saves = []

    def start(folder):
        saves.append(dcp.async_save(changing | steady, checkpoint_id=folder, no_dist=True))

    return start, lambda: saves.pop().result()


def orbax_save(state):
    """See `dcp_save`."""
    import orbax.checkpoint as ocp

    checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
    return lambda folder: checkpointer.save(folder, state.arrays()), checkpointer.wait_until_finished


RIVALS = {"jax": orbax_save, "torch": dcp_save}


def own(accelerator, state, root):
    checkpoints = Checkpoints(accelerator, root, keep_last=1)
    checkpoints.prepare(state)
    return lambda _: checkpoints.save(state), checkpoints.wait


def measure(name, start, wait, step, root):
    """Median over saves of what the save and the step after it cost beyond a step alone, in seconds."""
    alone = statistics.median(step() for _ in range(5))
    costs, written = [], []
    for index in range(SAVES + 1):
        begun = time.perf_counter()
        start(root / f"{name}-{index}")
        returned = time.perf_counter() - begun
        costs.append((returned, returned + step() - alone))
        wait()
        written.append(time.perf_counter() - begun)
    first, rest = costs[0], costs[1:]
    returned, cost = (statistics.median(each[part] for each in rest) for part in (0, 1))
    committed = statistics.median(written)
    print(
        f"{name:>10}: returns after {returned:.3f} s, costs {cost:.2f} s with the next step; "
        f"the first {first[0]:.3f} s, {first[1]:.2f} s; on disk after {committed:.1f} s"
    )
    return cost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["jax", "torch"], required=True)
    parser.add_argument("--width", type=int, default=9900)
    args = parser.parse_args()
    accelerator = ct.Accelerator(args.backend)
    model = ct.models.build("mlp", ct.models.MLPConfig(hidden=(args.width, args.width)), accelerator)
    state = accelerator.prepare(model, ct.adamw(1e-4))
    train = accelerator.train_step(loss_fn)
    batch = {name: values[:64] for name, values in ct.data.digits().train.items()}

    def step():
        begun = time.perf_counter()
        _ = train(state, batch)["loss"]
        accelerator.synchronize()
        return time.perf_counter() - begun

    print(f"{state.parameter_count / 1e6:.0f} million parameters, {args.backend}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        ours = measure("crosstrain", *own(accelerator, state, root / "own"), step, root)
        theirs = measure("rival", *RIVALS[args.backend](state), step, root)
    print(f"rival / crosstrain: {theirs / max(ours, 1e-3):.1f}")


if __name__ == "__main__":
    main()
