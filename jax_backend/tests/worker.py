"""One JAX process of a layout: `worker.py FOLDER DEVICES PROCESSES INDEX PORT`. Run by test_layouts.py."""

import sys
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[2]))

from parity_tests import layouts, refusals

import crosstrain as ct
from crosstrain.data.stacks import Stack
from crosstrain_jax import sharding


def facts() -> dict[str, np.ndarray]:
    """How a batch and the weights lie on the devices, and how often the step was compiled."""
    accelerator = ct.Accelerator("jax")
    loader = accelerator.loader(layouts.data_of("mlp"), batch_size=16, shuffle=True)
    config, _ = layouts.CASES["mlp"]
    step = accelerator.train_step(layouts.loss_fn)
    batch = next(iter(loader))
    for seed in range(2):
        model = ct.models.build("mlp", config, accelerator, seed=seed)
        state = accelerator.prepare(model, ct.adamw(ct.constant(1e-3 * (seed + 1))))
        trainer_epochs = [step(state, each)["loss"] for _ in range(2) for each in loader]
    before = state.params[0]
    step(state, batch)
    trainer = ct.Trainer(accelerator, state, layouts.loss_fn, progress=False)
    for _ in range(2):
        trainer.fit(loader, epochs=2)
    programs = [each._run._programs._programs for each in (step, trainer._step)]
    shard = batch["image"].addressable_shards[0].data.shape
    return {
        "devices": np.array([accelerator.device_count, len(jax.local_devices())]),
        "global batch": np.array(batch["image"].shape),
        "shard of the batch": np.array(shard),
        "weights are replicated": np.array(all(leaf.is_fully_replicated for leaf in state.params)),
        "compilations": np.array([sum(program.run._cache_size() for program in each.values()) for each in programs]),
        "donated": np.array(before.is_deleted()),
        "augmented alike": np.array(augmented_alike(accelerator)),
        "stacked alike": np.array(stacked_alike(loader)),
        "finite": np.array(np.isfinite(trainer_epochs).all()),
    }


def stacked_alike(loader: ct.data.Loader) -> bool:
    """Whether a stack holds on every device what the batches hold there that come one by one."""
    with loader.aside():
        batches = list(loader)
    with loader.aside():
        stack = next(iter(loader.stacks(2)))
    assert isinstance(stack, Stack)
    return all(
        np.array_equal(shard.data[index], single.data)
        for name, values in stack.fields.items()
        for index in range(len(stack))
        for shard, single in zip(values.addressable_shards, batches[index][name].addressable_shards, strict=True)
    )


def augmented_alike(accelerator: ct.Accelerator) -> bool:
    """Whether this process's devices change images as its host does, to the bit."""
    images = np.random.default_rng(0).integers(0, 256, (83, 6, 6, 3), dtype=np.uint8)
    chain = ct.data.compose(
        ct.data.colour_jitter(contrast=0.4), ct.data.random_crop(2), ct.data.normalise(0.5, 0.2), ct.data.mixup()
    )
    source = {"image": images, "label": np.arange(83)}
    loaders = [
        accelerator.loader(examples, batch_size=16, transform=chain, transform_on=where)
        for examples, where in ((source, "host"), (source, "device"), (accelerator.resident(source), "device"))
    ]
    parts = [
        [shard.data for shard in shards]
        for batches in zip(*loaders, strict=True)
        for shards in zip(*(batch["image"].addressable_shards for batch in batches), strict=True)
    ]
    return all(np.array_equal(each[0], other) for each in parts for other in each[1:])


def apart() -> dict[str, np.ndarray]:
    """Training where each process's devices hold rows of a batch that are no neighbours, as on a torus of TPUs."""

    def taking_turns(platform: str | None, *, own: bool = False) -> list[jax.Device]:
        hosts = [[d for d in jax.devices(platform) if d.process_index == index] for index in range(2)]
        return [device for pair in zip(*hosts, strict=True) for device in pair]

    with patch.object(sharding, "choose_devices", taking_turns):
        results = layouts.train("jax", "mlp")
        accelerator = ct.Accelerator("jax")
    batch = next(iter(accelerator.loader(layouts.data_of("mlp"), batch_size=16, shuffle=True)))
    shards = sorted(batch["label"].addressable_shards, key=lambda shard: shard.index[0].start)
    own = np.concatenate([shard.data for shard in shards])
    return results | {
        "starts": np.array([shard.index[0].start for shard in shards]),
        "gathered": accelerator.gather_for_metrics({"label": own}, batch)["label"],
        "labels": accelerator.gather(batch["label"]),
    }


class Dropping(nnx.Module):
    """Holds random keys of flax's own."""

    def __init__(self) -> None:
        self.up = nnx.Linear(64, 16, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        self.head = nnx.Linear(16, 10, rngs=nnx.Rngs(2))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.up(images.reshape(len(images), -1))))


def dropping() -> dict[str, np.ndarray]:
    """Losses under flax's own dropout, and those that follow in a second state which is given what the first holds."""
    accelerator = ct.Accelerator("jax", precision="fp64")
    loader = accelerator.loader(layouts.data_of("mlp"), batch_size=16, shuffle=True)
    step = accelerator.train_step(layouts.loss_fn)
    states = [accelerator.prepare(Dropping(), ct.sgd(0.1)) for _ in range(2)]
    batches = list(loader)
    losses = [step(states[0], batch)["loss"] for batch in batches]
    states[1].load(states[0].snapshot())
    losses += [step(state, batch)["loss"] for state in states for batch in batches]
    return {"losses": np.array(losses)}


def main(folder: str, devices: int, processes: int, index: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    results = layouts.run_all("jax") | {f"facts/{name}": values for name, values in facts().items()}
    results |= {f"dropping/{name}": values for name, values in dropping().items()}
    if processes > 1:
        results |= {f"apart/{name}": values for name, values in apart().items()}
    results |= refusals.collect("jax")
    ct.Accelerator("jax").wait_for_everyone()
    layouts.leave(Path(folder), index, results)


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
