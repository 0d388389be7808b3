"""A layer of the torch engine whose input is a parameter, so that the gradient of the input can be read."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain.models.gpt import GPTConfig
from crosstrain_torch.models import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from crosstrain_torch.models.experts import Mixture
from crosstrain_torch.models.gpt import FeedForward
from crosstrain_torch.models.mlp import ACTIVATIONS


class LayerProbe(nn.Module):
    """A layer over `x`, shape (B, ..., C)."""

    def __init__(self, layer: Any, shape: tuple[int, ...], *, channels_first: bool) -> None:
        super().__init__()
        self.layer, self.channels_first = layer, channels_first
        self.x = nn.Parameter(torch.zeros(shape))

    def forward(self) -> torch.Tensor:
        if not self.channels_first:
            return self.layer(self.x)
        return self.layer(self.x.movedim(-1, 1)).movedim(1, -1)


def batch_norm(shape: tuple[int, ...], *, eps: float, momentum: float) -> LayerProbe:
    return LayerProbe(BatchNorm(shape[-1], eps=eps, momentum=momentum), shape, channels_first=True)


def layer_norm(shape: tuple[int, ...], **options: float) -> LayerProbe:
    return LayerProbe(LayerNorm(shape[-1], **options), shape, channels_first=False)


def group_norm(shape: tuple[int, ...], *, groups: int, **options: float) -> LayerProbe:
    return LayerProbe(GroupNorm(groups, shape[-1], **options), shape, channels_first=True)


def rms_norm(shape: tuple[int, ...], **options: float) -> LayerProbe:
    return LayerProbe(RMSNorm(shape[-1], **options), shape, channels_first=False)


def activation(shape: tuple[int, ...], kind: str) -> LayerProbe:
    return LayerProbe(F.silu if kind == "silu" else ACTIVATIONS[kind], shape, channels_first=False)


def swiglu(shape: tuple[int, ...], config: GPTConfig) -> LayerProbe:
    return LayerProbe(FeedForward(config), shape, channels_first=False)


def mixture(shape: tuple[int, ...], config: GPTConfig) -> LayerProbe:
    assert config.experts is not None
    return LayerProbe(Mixture(config.experts, config), shape, channels_first=False)
