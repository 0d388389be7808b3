"""Layers whose meaning torch does not give as it is: normalisations as crosstrain defines them, counted dropout."""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.modules.batchnorm import _BatchNorm

from crosstrain.models.checks import require_groups, require_several
from crosstrain.random import StepRandom, keep_threshold, stable_hash
from crosstrain_torch.collectives import all_reduce_autograd
from crosstrain_torch.precision import wide_dtype
from crosstrain_torch.sharding import SequencePart


class BatchNorm(nn.Module):
    """BatchNorm over (B, H, W) of channels-first images, with statistics of the global batch.

    Definition (Ioffe and Szegedy 2015; torch's form): y = (x - mean) / sqrt(var + eps) weight + bias with the biased
    variance of the (micro-)batch; running = (1 - momentum) running + momentum new, where the new variance is the
    unbiased one, n / (n - 1) var. Statistics are float32 or wider.
    """

    canonical_norm = True

    def __init__(self, channels: int, *, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.group: Any = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity, and statistics of 0 and 1."""
        _reset(self)
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W), in the type of `x`."""
        weight, bias = self.weight.to(self.running_mean.dtype), self.bias.to(self.running_mean.dtype)
        if not self.training or self.group is None:
            if self.training:
                require_several(x.numel() // x.shape[1])
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
            )
        return self._synchronised(x, weight, bias)

    def _synchronised(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y, mean, var = _normalise_globally(x, weight, bias, self.eps, self.group)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return y


def _normalise_globally(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, group: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """BatchNorm of (B, C, ...) over the examples of all processes; mean and unbiased variance beside it."""
    wide, axes = x.to(weight.dtype), (0, *range(2, x.ndim))
    shape = (-1, *(1,) * (x.ndim - 2))
    count = torch.full((1,), x.numel() / x.shape[1], dtype=weight.dtype, device=x.device)
    total = all_reduce_autograd(torch.cat([wide.sum(axes), count]), group)
    mean, n = total[:-1] / total[-1], total[-1].detach()
    centred = wide - mean.reshape(shape)
    var = all_reduce_autograd(centred.square().sum(axes), group) / n
    scale = torch.rsqrt(var + eps) * weight
    y = centred * scale.reshape(shape) + bias.reshape(shape)
    return y.to(x.dtype), mean.detach(), (var * n / (n - 1)).detach()


def synchronise(module: _BatchNorm, group: Any) -> None:
    """Gives a user's own BatchNorm the statistics of the global batch, as every array of JAX is the global one."""
    module.crosstrain_group = group
    module.forward = MethodType(_forward_globally, module)


def _forward_globally(self: Any, x: torch.Tensor) -> torch.Tensor:
    tracks = self.running_mean is not None
    if not self.training and tracks:
        return type(self).forward(self, x)
    channels, dtype = x.shape[1], x.dtype if self.weight is None else self.weight.dtype
    weight = x.new_ones(channels, dtype=dtype) if self.weight is None else self.weight
    bias = x.new_zeros(channels, dtype=dtype) if self.bias is None else self.bias
    wide = wide_dtype(x)
    y, mean, var = _normalise_globally(x, weight.to(wide), bias.to(wide), self.eps, self.crosstrain_group)
    if self.training and tracks:
        self.num_batches_tracked.add_(1)
        share = 1.0 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        with torch.no_grad():
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (var - self.running_var)
    return y


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension.

    Definition (Ba, Kiros and Hinton 2016): y = (x - mean) / sqrt(var + eps) weight + bias, where var is the biased
    variance, the mean of (x - mean)^2. Statistics are float32 or wider.
    """

    canonical_norm = True

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity."""
        _reset(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., dim), in the type of `x`."""
        wide = x.to(wide_dtype(x))
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.layer_norm(wide, weight.shape, weight, bias, self.eps).to(x.dtype)


class GroupNorm(nn.Module):
    """GroupNorm of channels-first arrays.

    Definition (Wu and He 2018): y = (x - mean) / sqrt(var + eps) weight + bias, where mean and biased variance are
    those of one example and one group, `channels / groups` neighbouring channels at all positions; weight and bias
    belong to channels. Statistics are float32 or wider.

    Raises:
        ConfigError: `groups` does not divide `channels`.
    """

    canonical_norm = True

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        require_groups(groups, channels)
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity."""
        _reset(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> (B, C, ...), in the type of `x`."""
        # In the memory format channels_last, torch's CPU kernel takes the mean of squares minus the squared mean, which
        # loses every digit where the mean is large. With one dimension of positions there is no such format.
        # `F.group_norm` refuses a batch of one element, whose output is the bias.
        wide = x.to(wide_dtype(x)).unsqueeze(-1).flatten(2)
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return torch.group_norm(wide, self.groups, weight, bias, self.eps).to(x.dtype).reshape(x.shape)


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension.

    Definition (Zhang and Sennrich 2019; Llama's order): y = x / sqrt(mean(x^2) + eps), in float32 or wider, cast back,
    then times weight.
    """

    canonical_norm = True

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity."""
        _reset(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., dim), in the type of `x`."""
        wide = x.to(wide_dtype(x))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


@torch.no_grad()
def _reset(norm: nn.Module) -> None:
    for name, param in norm.named_parameters(recurse=False):
        param.fill_(1.0 if name == "weight" else 0.0)


class Dropout(nn.Module):
    """Inverted dropout whose mask is a function of (seed, step, layer name, example, feature): see `StepRandom`.

    The training step sets `random` before each forward pass, `prepare` which part of a sequence, dimension 1, is here.

    Args:
        rate: probability of dropping an element.
        name: canonical.
        width: size of the last dimension, where that may be split over `tensor`; `part` says which part is here.
    """

    def __init__(self, rate: float, name: str, width: int | None = None) -> None:
        super().__init__()
        self.rate, self.width, self.part = rate, width, 0
        self.layer = stable_hash(name, bits=32)
        self.random: StepRandom | None = None
        self.sequence_part: SequencePart | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...); the identity in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        if self.random is None:
            raise RuntimeError("dropout needs the randomness of a step: call the model inside a crosstrain step.")
        columns = self._columns(x)
        layer = torch.tensor(self.layer, device=x.device)
        bits = self.random.bits(layer, columns)
        keep = (bits < keep_threshold(self.rate)).reshape(x.shape)
        return torch.where(keep, x / (1.0 - self.rate), 0.0)

    def _columns(self, x: torch.Tensor) -> torch.Tensor:
        """Which elements of a whole example these are."""
        count, here = x[0].numel(), x.shape[-1]
        before = 0 if self.sequence_part is None or x.ndim < 3 else self.sequence_part.index * (count // here)
        if self.width in (None, here):
            return torch.arange(before * here, before * here + count, device=x.device)
        outer = torch.arange(before, before + count // here, device=x.device)[:, None] * self.width
        return (outer + self.part * here + torch.arange(here, device=x.device)).flatten()


def project(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x weight^T, whole, also where `weight` is split over `tensor`: (..., in) -> (..., out)."""
    if not isinstance(weight, DTensor):
        return F.linear(x, weight)
    whole = [Replicate()] * weight.device_mesh.ndim
    x = DTensor.from_local(x, weight.device_mesh, whole, run_check=False)
    return F.linear(x, weight).redistribute(placements=whole).to_local()
