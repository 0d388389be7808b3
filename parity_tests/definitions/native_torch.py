"""A normalisation of the torch engine whose input is a parameter, so that the gradient of the input can be read."""

import torch
from torch import nn

from crosstrain_torch.models import BatchNorm, GroupNorm, LayerNorm, RMSNorm


class NormProbe(nn.Module):
    """A layer over `x`, shape (B, ..., C)."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], *, channels_first: bool) -> None:
        super().__init__()
        self.layer, self.channels_first = layer, channels_first
        self.x = nn.Parameter(torch.zeros(shape))

    def forward(self) -> torch.Tensor:
        if not self.channels_first:
            return self.layer(self.x)
        return self.layer(self.x.movedim(-1, 1)).movedim(1, -1)


def batch_norm(shape: tuple[int, ...], *, eps: float, momentum: float) -> NormProbe:
    return NormProbe(BatchNorm(shape[-1], eps=eps, momentum=momentum), shape, channels_first=True)


def layer_norm(shape: tuple[int, ...], **options: float) -> NormProbe:
    return NormProbe(LayerNorm(shape[-1], **options), shape, channels_first=False)


def group_norm(shape: tuple[int, ...], *, groups: int, **options: float) -> NormProbe:
    return NormProbe(GroupNorm(groups, shape[-1], **options), shape, channels_first=True)


def rms_norm(shape: tuple[int, ...], **options: float) -> NormProbe:
    return NormProbe(RMSNorm(shape[-1], **options), shape, channels_first=False)
