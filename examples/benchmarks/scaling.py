"""How what a step sends grows with the devices, compiled for 8 to 256 of them, and where each axis stops scaling.

    python examples/benchmarks/scaling.py                    # both tables of docs/scaling.md, in Markdown
    python examples/benchmarks/scaling.py --devices 8 256    # fewer rows

The devices are virtual: programs are compiled, not run. A row of the first table holds the bytes that the compiled
program sends against the formula, for one model and a batch that grows with the devices (tensor: one that does not).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
import tyro

import crosstrain as ct
from crosstrain.planning import Job, Topology, plan, sent_bytes
from crosstrain.planning.chips import CHIPS, Chip
from crosstrain.planning.formulas import expected
from crosstrain.step import StepOptions

LENGTH, EXAMPLES, FLOAT = 128, 2, 4
BF16, FP32 = 2, 4
LLAMA_8B = {"parameters": 8.03e9, "blocks": 32, "dim": 4096}
AXES = ("data", "fsdp", "tensor", "expert", "pipeline")
ACTIVE = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One compiled program; bytes are those of one device and step."""

    axis: str
    devices: int
    formula: float
    compiled: float
    state: float


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


def job(axis: str, devices: int) -> Job:
    """A step whose model has no size that `devices` does not divide.

    With an expert on every device for `expert`; for `pipeline` with a block on each, and a micro-batch for each stage.
    """
    heads, examples = (devices, EXAMPLES) if axis == "tensor" else (8, EXAMPLES * devices)
    stages = axis == "pipeline"
    return Job(
        model=ct.models.GPTConfig(
            vocab_size=1024,
            dim=256 if stages else 512,
            n_layers=devices if stages else 4,
            n_heads=heads,
            mlp_dim=512 if stages else 1536,
            max_seq_len=LENGTH,
            experts=ct.Experts(number=devices, active=ACTIVE, capacity=1.0) if axis == "expert" else None,
        ),
        loss_fn=loss_fn,
        batch={name: np.zeros((examples, LENGTH), np.int32) for name in ("tokens", "labels")},
        optimizer=ct.adamw(1e-3),
        options=StepOptions(accumulate_steps=devices if stages else 1),
    )


def compiled(axis: str, devices: int) -> Row:
    """Compiles one step, and what the formula says of it."""
    mesh = ct.MeshSpec(**{"data": 1, axis: devices})
    report = plan(job(axis, devices), Topology.parse(f"cpu:{devices}"), mesh, "jax")
    formula = expected(
        report.measured.plan,
        tokens=EXAMPLES * LENGTH,
        compute_bytes=FLOAT,
        gradient_bytes=FLOAT,
        micro_batches=devices if axis == "pipeline" else 1,
        one_program=True,
        places=ACTIVE * EXAMPLES * LENGTH,
    )
    assert report.measured.memory is not None
    return Row(
        axis=axis,
        devices=devices,
        formula=sent_bytes(formula),
        compiled=report.sent_bytes,
        state=report.measured.memory.state,
    )


def bytes_table(sizes: list[int]) -> Iterator[str]:
    """What the programs send; rows as they are compiled."""
    yield "| axis | devices | formula, MB | compiled, MB | ratio | weights and moments, MB |"
    yield "|---|---|---|---|---|---|"
    for axis in AXES:
        for devices in sizes:
            row = compiled(axis, devices)
            yield (
                f"| {axis} | {devices} | {row.formula / 1e6:.3f} | {row.compiled / 1e6:.3f} | "
                f"{row.compiled / row.formula:.4f} | {row.state / 1e6:.2f} |"
            )


def tokens_to_hide(chip: Chip, bytes_per_parameter: float) -> float:
    """Tokens per chip for which 6 FLOPs per parameter take as long as sending so many bytes of it, both ways."""
    return bytes_per_parameter / (2 * chip.link_bytes_per_s) * chip.flops_per_s / 6


def tensor_limit(chip: Chip) -> float:
    """Chips over which four sums of activations per block take as long as the block's share of products."""
    compute = 6 * LLAMA_8B["parameters"] / LLAMA_8B["blocks"] / chip.flops_per_s
    sums = 4 * 2 * LLAMA_8B["dim"] * BF16 / (2 * chip.link_bytes_per_s)
    return compute / sums + 1


def stage_limit(chip: Chip) -> float:
    """Stages for which handing on an activation and its gradient takes as long as a stage's share of products."""
    compute = 6 * LLAMA_8B["parameters"] / chip.flops_per_s
    return compute / (2 * LLAMA_8B["dim"] * BF16 / (2 * chip.link_bytes_per_s))


def limits_table() -> Iterator[str]:
    """Where an axis sends for longer than it computes; Llama 8B, bfloat16 with gradients in float32."""
    yield "| chip | data: tokens a chip | fsdp: tokens a chip | tensor: chips | pipeline: stages |"
    yield "|---|---|---|---|---|"
    for chip in CHIPS.values():
        data, fsdp = tokens_to_hide(chip, 2 * FP32), tokens_to_hide(chip, 2 * BF16 + FP32)
        yield f"| {chip.name} | {data:.0f} | {fsdp:.0f} | {tensor_limit(chip):.0f} | {stage_limit(chip):.0f} |"


def main(devices: list[int] = [8, 16, 32, 64, 128, 256]) -> None:  # noqa: B006 (tyro reads the default)
    """Prints both tables."""
    jax.config.update("jax_num_cpu_devices", max(devices))
    ct.Accelerator("jax")  # From here on their number stands.
    for table in (bytes_table(devices), limits_table()):
        print(*table, sep="\n", end="\n\n", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
