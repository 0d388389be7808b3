"""On a GPU: the share of its peak that a `gpt` of a billion parameters uses, and ResNet-9's time to 94% on CIFAR-10.

    python examples/benchmarks/gpu.py                              # both engines, one after the other
    python examples/benchmarks/gpu.py --cifar data/cifar-10        # and ResNet-9, from the files of its author

Without a GPU it says so, and ends well. The share (MFU) counts the products of forward and backward pass, with those of
attention (Chowdhery et al. 2022, appendix B), against the dense bfloat16 peak of the data sheet; `--peak` gives that of
another GPU.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tyro

import crosstrain as ct

PEAK_FLOPS_PER_S = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}
"""Of the data sheets, bfloat16 without sparsity, by a part of the device's name."""
BILLION = ct.models.GPTConfig(vocab_size=32_768, dim=2048, n_layers=18, n_heads=16, max_seq_len=1024)
TINY = ct.models.GPTConfig(vocab_size=64, dim=32, n_layers=2, n_heads=2, max_seq_len=16)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WARM, STEPS = 3, 20
MODES = {"jax": ("step",), "torch": (False, "model", "step")}


def lm_loss(model, batch, ops):
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


def image_loss(model, batch, ops):
    logits = model(batch["image"])
    loss = ops.cross_entropy(logits, batch["label"], label_smoothing=0.1)
    return loss, {"accuracy": ops.accuracy(logits, batch["label"])}


def flops_per_token(config, parameters):
    """Forward and backward: 6 for each weight that is multiplied, 12 L d T for attention."""
    table = config.vocab_size * config.dim
    multiplied = parameters if config.tie_embeddings else parameters - table
    return 6 * multiplied + 12 * config.n_layers * config.dim * config.max_seq_len


def peak_of(device):
    return next((peak for name, peak in PEAK_FLOPS_PER_S.items() if name in device), None)


def measure_gpt(accelerator, config, batch_size, peak, compiled):
    state = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.adamw(1e-4))
    step = accelerator.train_step(lm_loss, clip_norm=1.0, compile=compiled)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, config.max_seq_len + 1), np.int32)
    batch = accelerator.to_device({"tokens": tokens[:, :-1], "labels": tokens[:, 1:].copy()})
    losses = [step(state, batch)["loss"] for _ in range(WARM)]
    accelerator.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        metrics = step(state, batch)
    accelerator.synchronize()
    seconds = (time.perf_counter() - start) / STEPS
    rate = batch_size * config.max_seq_len / seconds
    share = "" if peak is None else f", MFU {rate * flops_per_token(config, state.parameter_count) / peak:.1%}"
    print(
        f"{accelerator.backend}, compile={compiled!r}: gpt of {state.parameter_count / 1e6:,.1f} million parameters, "
        f"{seconds * 1e3:.1f} ms a step, {rate:,.0f} tokens/s{share}; loss {losses[0]:.3f} to {metrics['loss']:.3f}",
        flush=True,
    )


def measure_resnet(accelerator, folder, epochs, compiled):
    data = ct.data.cifar10(folder)
    augment = ct.data.compose(ct.data.random_crop(4), ct.data.flip(), ct.data.cutout(8), ct.data.normalise(MEAN, STD))
    train = accelerator.loader(
        accelerator.resident(data.train),
        batch_size=512,
        shuffle=True,
        drop_last=True,
        transform=augment,
        transform_on="device",
    )
    test = accelerator.loader(data.test, batch_size=1000, transform=ct.data.normalise(MEAN, STD))
    model = ct.models.build("resnet9", ct.models.ResNet9Config(), accelerator)
    schedule = ct.one_cycle(0.4, len(train) * epochs)
    state = accelerator.prepare(model, ct.sgd(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4))
    trainer = ct.Trainer(accelerator, state, image_loss, compile=compiled, progress=False)
    start = time.perf_counter()
    trainer.fit(train, epochs=epochs)
    accuracy = trainer.evaluate(test)["accuracy"]
    seconds, reached = time.perf_counter() - start, "at least" if accuracy >= 0.94 else "below"
    print(
        f"{accelerator.backend}: ResNet-9, {epochs} epochs of CIFAR-10 in {seconds:.1f} s with compilation and "
        f"evaluation: {accuracy:.2%} of the test set, {reached} 94%",
        flush=True,
    )


def measure(engine, cifar, batch_size, epochs, peak, tiny):
    """What one engine does, in a process of its own: either takes most of the memory."""
    try:
        accelerator = ct.Accelerator(engine, precision="bf16", platform="cpu" if tiny else "gpu")
    except ct.ConfigError as error:
        print(f"{engine}: finds no GPU, so there is nothing to measure ({error})")
        return
    modes = MODES[engine][:1] if tiny else MODES[engine]
    for compiled in modes:
        measure_gpt(
            accelerator,
            TINY if tiny else BILLION,
            batch_size,
            peak or peak_of(accelerator.describe()["devices"]),
            compiled,
        )
    if cifar is not None:
        measure_resnet(accelerator, cifar, epochs, modes[-1])


def main(
    engines: list[str] = ["jax", "torch"],  # noqa: B006 (tyro reads the default)
    cifar: Path | None = None,
    batch_size: int = 8,
    epochs: int = 10,
    peak: float | None = None,
    tiny: bool = False,
) -> None:
    """Measures and prints.

    Args:
        engines: which of them; several run in processes of their own.
        cifar: folder of CIFAR-10's files; without it ResNet-9 is left out.
        batch_size: sequences of 1024 tokens.
        epochs: of CIFAR-10.
        peak: FLOPs per second in bfloat16, for a GPU that is not in the table.
        tiny: a small model on the CPU, to see that everything runs.
    """
    if len(engines) == 1:
        measure(engines[0], cifar, batch_size, epochs, peak, tiny)
        return
    for engine in engines:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--engines", engine], check=True)


if __name__ == "__main__":
    tyro.cli(main)
