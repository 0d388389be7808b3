"""A user's own model in torch, native layers under names of its own, and what a process holds of a state."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain_torch.shards import local


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Tagger(nn.Module):
    """Tokens (B, T) -> logits (B, T, 32). No axis of a mesh divides `scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(16, 32)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale


def make() -> nn.Module:
    return Tagger()


def held(state: Any) -> dict[str, tuple[int, ...]]:
    """`params/NAME`, `averages/NAME` and `moments/SLOT/NAME` -> the shape that this process holds."""
    _, steady = state.tensors()
    return {name: tuple(local(tensor).shape) for name, tensor in steady.items()}
