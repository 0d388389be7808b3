"""The clean pairs that bugs are planted in: what they train, and the reference side of each.

Sizes are tiny; every pair reaches the layers and options that the catalogue plants bugs in. The torch side is the one
that is changed.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.data.sources import as_source
from crosstrain.optim import undecayed
from crosstrain.parity.side import Live, Side
from crosstrain.random import normal, permutation
from crosstrain.step import StepOptions

TOTAL_STEPS = 40
BATCH_SIZE = 16


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    logits = model(batch["tokens"] if "tokens" in batch else batch["image"])
    return ops.cross_entropy(logits, batch["label"])


def ragged_loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    """Padding inside the examples: micro-batches hold different numbers of tokens."""
    return ops.cross_entropy(model(batch["tokens"]), batch["label"])


@dataclass(frozen=True, kw_only=True)
class Base:
    kind: str
    config: Any
    optimizer: Any
    options: StepOptions = field(default_factory=StepOptions)
    average: Any = None

    def initial_weights(self, seed: int) -> dict[str, np.ndarray]:
        return self.config.initial_weights(seed)

    def side(self, backend: str) -> Side:
        return Side(
            backend=backend,
            model=functools.partial(ct.models.build, self.kind, self.config),
            loss_fn=loss_fn,
            optimizer=self.optimizer,
            batches=functools.partial(batch_of, self.kind),
            options=self.options,
            average=self.average,
        )


class NativeBase:
    """A user's own models: torch's and flax's layers as they are, a LayerNorm among them."""

    def initial_weights(self, seed: int) -> dict[str, np.ndarray]:
        shapes = self.side("torch").open("fp64").shapes
        return {
            name: 1.0 + 0.1 * normal(seed, name, shape) if name.startswith("norm") else 0.3 * normal(seed, name, shape)
            for name, shape in shapes.items()
        }

    def side(self, backend: str) -> Side:
        torch, jax, _ = _native_port().sides()
        return torch if backend == "torch" else jax


@functools.cache
def _native_port() -> Any:
    from parity_tests.verdict.small_port import small_port

    return small_port(
        optimizer=ct.adamw(ct.one_cycle(3e-3, TOTAL_STEPS), groups=(undecayed(),)), total_steps=TOTAL_STEPS
    )


def batch_of(kind: str, step: int) -> dict[str, np.ndarray]:
    source = as_source(_data(kind))
    batch = source.gather(permutation(0, step, len(source))[:BATCH_SIZE])
    if kind == "gpt":
        ignored = np.arange(batch["label"].shape[1]) >= 4 + np.arange(BATCH_SIZE)[:, None]
        batch["label"] = np.where(ignored, -100, batch["label"]).astype(np.int32)
    return batch


@functools.cache
def _data(kind: str) -> Any:
    if kind == "gpt":
        return ct.data.token_windows(ct.data.stdlib_bytes(max_bytes=20_000), 16)
    return ct.data.digits().train


BASES = {
    "mlp": Base(
        kind="mlp",
        config=ct.models.MLPConfig(hidden=(16, 16), activation="gelu", dropout=0.1),
        optimizer=ct.adamw(ct.one_cycle(3e-3, TOTAL_STEPS), groups=(undecayed(),)),
    ),
    "resnet9": Base(
        kind="resnet9",
        config=ct.models.ResNet9Config(width=2, image_size=8, in_channels=1),
        optimizer=ct.sgd(ct.one_cycle(0.1, TOTAL_STEPS), momentum=0.9, nesterov=True, weight_decay=1e-3),
    ),
    "gpt": Base(
        kind="gpt",
        config=ct.models.GPTConfig(dim=16, n_layers=2, n_heads=2, n_kv_heads=1, max_seq_len=16),
        optimizer=ct.adamw(ct.cosine(3e-3, TOTAL_STEPS, warmup_steps=8), betas=(0.9, 0.95), weight_decay=0.1),
        options=StepOptions(accumulate_steps=2, clip_norm=0.5),
    ),
    "native": NativeBase(),
    "muon": Base(
        kind="gpt",
        config=ct.models.GPTConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, max_seq_len=16),
        optimizer=ct.muon(ct.cosine(0.02, TOTAL_STEPS, warmup_steps=8), weight_decay=0.1),
        average=ct.ema(0.9),
    ),
    **{
        name: Base(kind="mlp", config=ct.models.MLPConfig(hidden=(8,)), optimizer=optimizer)
        for name, optimizer in (
            ("lion", ct.lion(ct.one_cycle(1e-3, TOTAL_STEPS), weight_decay=0.1)),
            ("nadam", ct.nadam(ct.one_cycle(3e-3, TOTAL_STEPS))),
            ("rmsprop", ct.rmsprop(ct.one_cycle(1e-3, TOTAL_STEPS))),
            ("adafactor", ct.adafactor(ct.one_cycle(1e-2, TOTAL_STEPS))),
        )
    },
}

PAIRED = ("mlp", "resnet9", "gpt")
"""Pairs of one model each; the others train the same models with other optimizers."""


@functools.cache
def reference(name: str) -> Live:
    """The open reference of a pair; opened once, since all mutants are compared with it."""
    return BASES[name].side("jax").open("fp64")


@functools.cache
def start(name: str) -> ct.Snapshot:
    """The reference's state before any step."""
    return reference(name).snapshot()
