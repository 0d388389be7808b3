"""The torch modules that definition tests train: whatever they are asked about, behind inputs that have gradients."""

from typing import Any

import torch
from torch import nn


class Inputs(nn.Module):
    """`model(name, x)` is x plus a parameter `name` of zeros, whose gradient is that of the input."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, name: str, x: torch.Tensor) -> Any:
        return x + getattr(self, name)
