"""A torch transformer block and its flax port, as a user would write them, with two classic mistakes in the port.

flax's LayerNorm has another eps (1e-6 against 1e-5), and `jax.nn.gelu` is the tanh approximation by default. Everything
else is the same; names, attention packing and layouts differ as they do in real ports.
"""

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn

import crosstrain as ct

VOCABULARY, DIM = 50, 16


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, DIM)
        self.attn = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.norm1 = nn.LayerNorm(DIM)
        self.fc1 = nn.Linear(DIM, 2 * DIM)
        self.fc2 = nn.Linear(2 * DIM, DIM)
        self.norm2 = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = self.norm1(x + self.attn(x, x, x, need_weights=False)[0])
        x = self.norm2(x + self.fc2(nn.functional.gelu(self.fc1(x))))
        return self.head(x)


class FlaxBlock(nnx.Module):
    def __init__(self, eps: float = 1e-6, approximate: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.approximate = approximate
        self.tok = nnx.Embed(VOCABULARY, DIM, rngs=rngs)
        self.mha = nnx.MultiHeadAttention(4, DIM, decode=False, rngs=rngs)
        self.ln_1 = nnx.LayerNorm(DIM, epsilon=eps, rngs=rngs)
        self.dense_1 = nnx.Linear(DIM, 2 * DIM, rngs=rngs)
        self.dense_2 = nnx.Linear(2 * DIM, DIM, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(DIM, epsilon=eps, rngs=rngs)
        self.lm_head = nnx.Linear(DIM, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tok(tokens)
        x = self.ln_1(x + self.mha(x))
        hidden = self.dense_1(x)
        hidden = jax.nn.gelu(hidden) if self.approximate else jax.nn.gelu(hidden, approximate=False)
        return self.lm_head(self.ln_2(x + self.dense_2(hidden)))


def torch_model() -> nn.Module:
    torch.manual_seed(0)
    return TorchBlock()


def jax_model() -> nnx.Module:
    return FlaxBlock()


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["tokens"]), batch["label"])


def batches(step: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(step).integers(0, VOCABULARY, (8, 13)).astype(np.int32)
    return {"tokens": drawn[:, :-1], "label": drawn[:, 1:].copy()}


optimizer = ct.adamw(ct.cosine(1e-3, 60, warmup_steps=6))
total_steps = 60
