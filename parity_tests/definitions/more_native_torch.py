"""The torch modules that definition tests train: whatever they are asked about, behind inputs that have gradients."""

from typing import Any

import torch
from torch import nn

from crosstrain_torch import models
from crosstrain_torch.models.mlp import ACTIVATIONS


class Inputs(nn.Module):
    """`model(name, x)` is x plus a parameter `name` of zeros, whose gradient is that of the input."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, name: str, x: torch.Tensor) -> Any:
        return x + getattr(self, name)


class Layer(nn.Module):
    """norm(x + 0) (slope + 0), where both zeros are parameters: the gradient of `slope` is the output of the layer.

    Tensors are channels-last outside, as crosstrain's batches are; `GroupNorm` and `BatchNorm` see channels first.
    """

    def __init__(self, kind: str, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
        super().__init__()
        self.x, self.slope = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.norm = _layer(kind, shape[-1], settings)
        self.channels_first = kind in ("group_norm", "batch_norm")

    def forward(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        x = x + self.x
        y = self.norm(x.movedim(-1, 1)).movedim(1, -1) if self.channels_first else self.norm(x)
        return y * (slope + self.slope)


def _layer(kind: str, channels: int, settings: dict[str, Any]) -> Any:
    if kind == "rms_norm":
        return models.RMSNorm(channels, **settings)
    if kind == "layer_norm":
        return models.LayerNorm(channels, **settings)
    if kind == "group_norm":
        return models.GroupNorm(channels=channels, **settings)
    return models.BatchNorm(channels, **settings) if kind == "batch_norm" else ACTIVATIONS[kind]
