"""A port of a few layers, small enough to be compared in every way; options put in what native models may contain."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port

FEATURES, CLASSES = 6, 3


class TorchNet(nn.Module):
    def __init__(self, *, rate: float, functional_rate: float, fourier: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.functional_rate, self.fourier = functional_rate, fourier
        self.norm = nn.LayerNorm(FEATURES)
        self.fc = nn.Linear(FEATURES, 8)
        self.drop = nn.Dropout(rate)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.fft.fft(x).real if self.fourier else x)
        x = nn.functional.dropout(torch.tanh(self.fc(x)), self.functional_rate, self.training)
        return self.head(self.drop(x))


class FlaxNet(nnx.Module):
    def __init__(self, *, rate: float, fourier: bool, eps: float) -> None:
        rngs = nnx.Rngs(0)
        self.fourier = fourier
        self.norm = nnx.LayerNorm(FEATURES, epsilon=eps, use_fast_variance=False, rngs=rngs)
        self.fc = nnx.Linear(FEATURES, 8, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(jnp.fft.fft(x).real if self.fourier else x)
        return self.head(self.drop(jnp.tanh(self.fc(x))))


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["x"]), batch["label"])


def batches(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {
        "x": draw.normal(size=(8, FEATURES)).astype(np.float32),
        "label": draw.integers(0, CLASSES, 8).astype(np.int32),
    }


def small_port(
    *,
    rates: tuple[float, float] = (0.0, 0.0),
    functional_rate: float = 0.0,
    fourier: bool = False,
    eps: float = 1e-5,
    **changes: Any,
) -> Port:
    """A port; `rates` are those of the dropout layers of both models, `eps` is the flax norm's."""
    return Port(
        **{
            "torch_model": lambda: TorchNet(rate=rates[0], functional_rate=functional_rate, fourier=fourier),
            "jax_model": lambda: FlaxNet(rate=rates[1], fourier=fourier, eps=eps),
            "torch_loss": loss_fn,
            "jax_loss": loss_fn,
            "batches": batches,
            "optimizer": ct.adamw(ct.cosine(1e-2, 8, warmup_steps=2)),
            "total_steps": 8,
            **changes,
        }
    )
