"""What is measured, and who takes part. Imports no framework."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Unit = Literal["us", "ms"]
BATCHES = 32
"""Different batches that a block of steps goes through, over and over."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One training step.

    Attributes:
        title: of its table.
        unit: in which a step is told.
        steps: of one measured block.
        turns: blocks in a round; more where a block is so short that the processor's speed changes in between.
        batch: examples.
        fields: name of the model's input, and shape of one example.
        classes: number of labels; one for each example, or for each token.
        contestants: name in the table -> module and function that makes the loop.
        base: whose time others are told as a ratio of, per engine.
    """

    title: str
    unit: Unit
    steps: int
    batch: int
    shape: tuple[int, ...]
    classes: int
    contestants: dict[str, str]
    turns: int = 1

    @property
    def is_text(self) -> bool:
        """Whether inputs are tokens, each with a label."""
        return len(self.shape) == 1 and self.classes > 100

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs, (B, ...) float32 or (B, T) int32, and labels, int32."""
        random = np.random.default_rng(0)
        for _ in range(BATCHES):
            size = (self.batch, *self.shape)
            if self.is_text:
                yield random.integers(0, self.classes, size, np.int32), random.integers(0, self.classes, size, np.int32)
            else:
                labels = random.integers(0, self.classes, self.batch, np.int32)
                yield random.standard_normal(size, np.float32), labels


MLP = Workload(
    title="W1: MLP 64-128-10, batch 32, AdamW",
    turns=3,
    unit="us",
    steps=1920,
    batch=32,
    shape=(64,),
    classes=10,
    contestants={
        "jax, raw: flat leaves, donated": "jax_loops:raw",
        "jax, raw: scan of 20 steps": "jax_loops:raw_scan",
        "jax, nnx.jit and nnx.Optimizer": "jax_loops:nnx_loop",
        "jax, Keras fit": "keras_loops:fit_jax",
        "jax, crosstrain": "crosstrain_loops:jax",
        "jax, crosstrain, with the metric": "crosstrain_loops:jax_metric",
        "jax, crosstrain, 20 steps a call": "crosstrain_loops:jax_many",
        "jax, crosstrain Trainer, everything on": "crosstrain_loops:jax_trainer",
        "jax, crosstrain Trainer, everything on, 16 steps a call": "crosstrain_loops:jax_trainer_many",
        "torch, raw: eager loop": "torch_loops:eager",
        "torch, raw: fused AdamW": "torch_loops:fused",
        "torch, compiled: raw": "torch_loops:compiled",
        "torch, Fabric": "torch_loops:fabric",
        "torch, Accelerate": "torch_loops:accelerate",
        "torch, Transformers Trainer": "torch_loops:transformers",
        "torch, Keras fit": "keras_loops:fit_torch",
        "torch, crosstrain": "crosstrain_loops:torch",
        "torch, crosstrain, with the metric": "crosstrain_loops:torch_metric",
        "torch, crosstrain Trainer, everything on": "crosstrain_loops:torch_trainer",
        "torch, compiled: crosstrain": "crosstrain_loops:torch_compiled",
    },
)
RESNET = Workload(
    title="W2: ResNet-9 of a quarter of the width, 32 x 32 x 3, batch 128, SGD with one-cycle",
    unit="ms",
    steps=4,
    batch=128,
    shape=(32, 32, 3),
    classes=10,
    contestants={
        "jax, raw: flat leaves, donated": "jax_loops:raw",
        "jax, Keras fit": "keras_loops:fit_jax",
        "jax, crosstrain": "crosstrain_loops:jax",
        "torch, raw: eager loop": "torch_loops:eager",
        "torch, raw: channels_last": "torch_loops:channels_last",
        "torch, Accelerate": "torch_loops:accelerate",
        "torch, Keras fit": "keras_loops:fit_torch",
        "torch, crosstrain": "crosstrain_loops:torch",
    },
)
GPT = Workload(
    title="W3: GPT of 4 layers, width 256, 256 tokens, vocabulary 4096, batch 8, AdamW",
    unit="ms",
    steps=3,
    batch=8,
    shape=(256,),
    classes=4096,
    contestants={
        "jax, raw: flat leaves, donated": "jax_loops:raw",
        "jax, crosstrain": "crosstrain_loops:jax",
        "torch, raw: eager loop": "torch_loops:eager",
        "torch, raw: fused AdamW": "torch_loops:fused",
        "torch, compiled: raw": "torch_loops:compiled",
        "torch, Accelerate": "torch_loops:accelerate",
        "torch, crosstrain": "crosstrain_loops:torch",
        "torch, compiled: crosstrain": "crosstrain_loops:torch_compiled",
    },
)
LOADER = Workload(
    title="Loader: 32 x 32 x 3 bytes, crop, flip, normalise, batches of 512",
    unit="ms",
    steps=64,
    batch=512,
    shape=(32, 32, 3),
    classes=10,
    contestants={
        "loader, raw: batch-wise NumPy": "loaders:numpy_batches",
        "loader, raw: JAX, all on the device": "loaders:jax_on_device",
        "loader, torch DataLoader, 2 workers": "loaders:torch_loader",
        "loader, grain": "loaders:grain_loader",
        "loader, crosstrain, jax, on the host": "loaders:jax_host",
        "loader, crosstrain, jax, on the device": "loaders:jax_device",
        "loader, crosstrain, jax, resident": "loaders:jax_resident",
        "loader, crosstrain, torch, on the host": "loaders:torch_host",
        "loader, crosstrain, torch, on the device": "loaders:torch_device",
        "loader, crosstrain, torch, resident": "loaders:torch_resident",
    },
)
WORKLOADS = {"mlp": MLP, "resnet9": RESNET, "gpt": GPT, "loader": LOADER}
RATE, DECAY, MOMENTUM = 1e-3, 0.01, 0.9
PEAK, TOTAL = 0.05, 100_000
"""Of the one-cycle schedule: highest rate, and its steps, of which a measurement takes the first few."""
