"""Training parity: every paired model with every recipe, both engines from the same start, in float64.

`python -m parity_tests.training.matrix` (or `make parity`) prints the table; the tests hold it to its limits.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import crosstrain as ct
from crosstrain.data.sources import as_source
from crosstrain.parity import compare_low_precision
from crosstrain.parity.compare import FLOAT64_LIMIT, relative_difference
from crosstrain.parity.side import Side
from crosstrain.random import permutation
from crosstrain.step import StepOptions

# BatchNorm over the 4 examples of a micro-batch of 16 / 4 is chaotic: in float64 a rounding error grows tenfold every
# seven steps, on one engine as between two. Sixteen examples per micro-batch are enough to keep it down.
BATCH_SIZES = {"mlp": 16, "resnet9": 64, "gpt": 16}
MODELS: dict[str, Any] = {
    "mlp": ct.models.MLPConfig(hidden=(32, 32), activation="gelu"),
    "resnet9": ct.models.ResNet9Config(width=4, image_size=8, in_channels=1),
    "gpt": ct.models.GPTConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=16),
}
OPTIMIZERS = {
    "sgd, one-cycle": lambda steps: ct.sgd(ct.one_cycle(0.03, steps), momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adamw, cosine": lambda steps: ct.adamw(
        ct.cosine(2e-3, steps, warmup_steps=steps // 10), weight_decay=0.05, groups=(ct.undecayed(),)
    ),
    "lion, cosine": lambda steps: ct.lion(
        ct.cosine(2e-3, steps, warmup_steps=steps // 10), weight_decay=0.1, groups=(ct.undecayed(),)
    ),
    "muon, warm-up-stable-decay": lambda steps: ct.muon(
        ct.warmup_stable_decay(0.02, steps, warmup_steps=steps // 10, decay_steps=steps // 3),
        weight_decay=0.01,
        groups=(ct.undecayed(),),
    ),
}
VARIANTS = ("plain", "accumulation", "clipping", "dropout", "EMA")


@dataclass(frozen=True, kw_only=True)
class Case:
    model: str
    optimizer: str
    variant: str

    def __str__(self) -> str:
        return f"{self.model}, {self.optimizer}, {self.variant}"

    def config(self) -> Any:
        config = MODELS[self.model]
        return dataclasses.replace(config, dropout=0.1) if self.variant == "dropout" else config

    def options(self) -> StepOptions:
        return StepOptions(
            accumulate_steps=4 if self.variant == "accumulation" else 1,
            clip_norm=0.5 if self.variant == "clipping" else None,
            grad_norm=True,
        )

    def side(self, backend: str, steps: int) -> Side:
        return Side(
            backend=backend,
            model=functools.partial(ct.models.build, self.model, self.config()),
            loss_fn=loss_fn,
            optimizer=OPTIMIZERS[self.optimizer](steps),
            batches=functools.partial(batch_of, self.model),
            options=self.options(),
        )


def cases() -> Iterator[Case]:
    """Every combination that exists: the ResNet-9 has no dropout."""
    for model in MODELS:
        for optimizer in OPTIMIZERS:
            for variant in VARIANTS:
                if (model, variant) != ("resnet9", "dropout"):
                    yield Case(model=model, optimizer=optimizer, variant=variant)


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    logits = model(batch["tokens"] if "tokens" in batch else batch["image"])
    return ops.cross_entropy(logits, batch["label"])


@functools.cache
def _source(model: str) -> Any:
    if model == "gpt":
        return as_source(ct.data.token_windows(ct.data.stdlib_bytes(max_bytes=100_000), 16))
    return as_source(ct.data.digits().train)


def batch_of(model: str, step: int) -> dict[str, np.ndarray]:
    source, size = _source(model), BATCH_SIZES[model]
    epoch, index = divmod(step, len(source) // size)
    return source.gather(permutation(0, epoch, len(source))[index * size :][:size])


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest relative differences of the two engines over a run."""

    loss: float
    grad_norm: float
    weights: float
    last_loss: float

    @property
    def worst(self) -> float:
        return max(self.loss, self.grad_norm, self.weights)


def run(case: Case, steps: int) -> Difference:
    """Trains a case on both engines in float64 and compares losses, gradient norms, and final weights and averages."""
    runs = [_train(case, backend, steps) for backend in ("jax", "torch")]
    (a_loss, a_norm, a), (b_loss, b_norm, b) = runs
    weights = [(a.params, b.params), (a.buffers, b.buffers), (a.averages, b.averages)]
    return Difference(
        loss=float(relative_difference(a_loss, b_loss).max()),
        grad_norm=float(relative_difference(a_norm, b_norm).max()),
        weights=max(float(np.abs(x[name] - y[name]).max() / np.abs(y[name]).max()) for x, y in weights for name in y),
        last_loss=float(b_loss[-1]),
    )


def _train(case: Case, backend: str, steps: int) -> tuple[np.ndarray, np.ndarray, ct.Snapshot]:
    accelerator = ct.Accelerator(backend, precision="fp64")
    model = ct.models.build(case.model, case.config(), accelerator)
    average = ct.ema(0.99) if case.variant == "EMA" else None
    state = accelerator.prepare(model, OPTIMIZERS[case.optimizer](steps), average=average)
    options = case.options()
    step = accelerator.train_step(
        loss_fn, accumulate_steps=options.accumulate_steps, clip_norm=options.clip_norm, grad_norm=True
    )
    metrics = [step(state, batch_of(case.model, index)) for index in range(steps)]
    values = np.array([[each["loss"], each["grad_norm"]] for each in metrics])
    return values[:, 0], values[:, 1], state.snapshot()


def low_precision(case: Case, steps: int) -> tuple[float, float]:
    """Envelope multiples of the resynchronised steps in float32 and bfloat16."""
    # An average of the weights changes no step.
    variant = "plain" if case.variant == "EMA" else case.variant
    return _low_precision(dataclasses.replace(case, variant=variant), steps)


@functools.cache
def _low_precision(case: Case, steps: int) -> tuple[float, float]:
    sides = case.side("torch", steps), case.side("jax", steps)
    fp32, bf16 = (
        compare_low_precision(*sides, precision=precision, total_steps=steps, seeds=8).worst
        for precision in ("fp32", "bf16")
    )
    return fp32, bf16


def main(steps: int = 300) -> int:
    """Prints the table of all cases: float64 differences, and multiples of the envelope in float32 and bfloat16."""
    table = Table(title=f"JAX against torch, {steps} steps in float64; envelope multiples of resynchronised steps")
    for column in ("case", "loss", "gradient norm", "weights", "fp32", "bf16", "verdict"):
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    failed = 0
    console = Console(width=132)
    for case in cases():
        found = run(case, steps)
        low = low_precision(case, steps)
        good = found.worst <= FLOAT64_LIMIT and max(low) <= 1
        failed += not good
        numbers = [f"{value:.1e}" for value in (found.loss, found.grad_norm, found.weights)]
        table.add_row(str(case), *numbers, *(f"{value:.2f}" for value in low), "same" if good else "DIFFERENT")
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
