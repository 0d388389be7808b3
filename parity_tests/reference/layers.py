"""Layers and their gradients in float64 NumPy, from their formulas. Imports nothing of crosstrain."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class NormGradients(NamedTuple):
    """Gradients of a normalisation with respect to its input and its parameters."""

    x: Array
    weight: Array
    bias: Array


def batch_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    """Ioffe and Szegedy 2015, algorithm 1, on (B, H, W, C): the biased variance of the batch."""
    return batch_norm_evaluation(x, weight, bias, x.mean((0, 1, 2)), x.var((0, 1, 2)), eps=eps)


def batch_norm_evaluation(x: Array, weight: Array, bias: Array, mean: Array, var: Array, *, eps: float) -> Array:
    """The same with given statistics."""
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def batch_norm_scale(x: Array, *, eps: float) -> Array:
    """What the centred input is divided by."""
    return np.sqrt(x.var((0, 1, 2)) + eps)


def running_statistics(x: Array, mean: Array, var: Array, *, momentum: float) -> tuple[Array, Array]:
    """torch's form: running = (1 - momentum) running + momentum new, with the unbiased variance of the batch."""
    new_mean, new_var = x.mean((0, 1, 2)), x.var((0, 1, 2), ddof=1)
    return (1 - momentum) * mean + momentum * new_mean, (1 - momentum) * var + momentum * new_var


def batch_norm_gradients(x: Array, weight: Array, g: Array, *, eps: float) -> NormGradients:
    """Ioffe and Szegedy 2015, section 3: back from `g`, the gradient of the output, through mean and variance."""
    axes = (0, 1, 2)
    std = batch_norm_scale(x, eps=eps)
    xhat, dxhat = (x - x.mean(axes)) / std, g * weight
    dx = (dxhat - dxhat.mean(axes) - xhat * (dxhat * xhat).mean(axes)) / std
    return NormGradients(dx, (g * xhat).sum(axes), g.sum(axes))


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    """Ba, Kiros and Hinton 2016, over the last dimension, with the biased variance."""
    return (x - x.mean(-1, keepdims=True)) / layer_norm_scale(x, eps=eps) * weight + bias


def layer_norm_scale(x: Array, *, eps: float) -> Array:
    """What the centred input is divided by."""
    return np.sqrt(x.var(-1, keepdims=True) + eps)


def layer_norm_gradients(x: Array, weight: Array, g: Array, *, eps: float) -> NormGradients:
    """Back from `g` through mean and variance, as in `batch_norm_gradients`."""
    scale, axes = layer_norm_scale(x, eps=eps), tuple(range(x.ndim - 1))
    xhat, dxhat = (x - x.mean(-1, keepdims=True)) / scale, g * weight
    dx = (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True)) / scale
    return NormGradients(dx, (g * xhat).sum(axes), g.sum(axes))


def group_norm(x: Array, weight: Array, bias: Array, *, groups: int, eps: float) -> Array:
    """Wu and He 2018, on (B, ..., C): each example and group of neighbouring channels is one row of a LayerNorm."""
    rows = _rows(x, groups)
    return _unrows(layer_norm(rows, np.ones(1), np.zeros(1), eps=eps), x.shape) * weight + bias


def group_norm_scale(x: Array, *, groups: int, eps: float) -> Array:
    """What the centred input is divided by, in the shape of `x`."""
    rows = _rows(x, groups)
    return _unrows(np.broadcast_to(layer_norm_scale(rows, eps=eps), rows.shape), x.shape)


def group_norm_gradients(x: Array, weight: Array, g: Array, *, groups: int, eps: float) -> NormGradients:
    """Back from `g`: the input's as in the LayerNorm of the rows, the parameters' summed over all but channels."""
    back = layer_norm_gradients(_rows(x, groups), np.ones(1), _rows(g * weight, groups), eps=eps)
    xhat, axes = group_norm(x, np.ones(1), np.zeros(1), groups=groups, eps=eps), tuple(range(x.ndim - 1))
    return NormGradients(_unrows(back.x, x.shape), (g * xhat).sum(axes), g.sum(axes))


def _rows(x: Array, groups: int) -> Array:
    """(B, ..., C) -> (B, groups, all positions and the channels of one group)."""
    channels_first = np.moveaxis(x, -1, 1)
    return channels_first.reshape(len(x), groups, -1)


def _unrows(rows: Array, shape: tuple[int, ...]) -> Array:
    """Back to (B, ..., C)."""
    return np.moveaxis(rows.reshape(shape[0], shape[-1], *shape[1:-1]), 1, -1)


def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    """Zhang and Sennrich 2019: x / sqrt(mean(x^2) + eps) weight over the last dimension."""
    return x / rms_norm_scale(x, eps=eps) * weight


def rms_norm_scale(x: Array, *, eps: float) -> Array:
    """What the input is divided by."""
    return np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def rms_norm_gradients(x: Array, weight: Array, g: Array, *, eps: float) -> NormGradients:
    """Back from `g` through the mean square; there is no bias, its gradient is empty."""
    rms = rms_norm_scale(x, eps=eps)
    dx = g * weight / rms - x * (g * weight * x).mean(-1, keepdims=True) / rms**3
    return NormGradients(dx, (g * x / rms).sum(tuple(range(x.ndim - 1))), np.zeros(0))


def threefry2x32(key: tuple[int, int], x0: Array, x1: Array) -> tuple[Array, Array]:
    """Salmon et al. 2011, 20 rounds, on Python integers in object arrays."""
    mask, rotations = 0xFFFFFFFF, [(13, 15, 26, 6), (17, 29, 16, 24)]
    schedule = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA]
    x0, x1 = (x0 + schedule[0]) & mask, (x1 + schedule[1]) & mask
    for group in range(5):
        for r in rotations[group % 2]:
            x0 = (x0 + x1) & mask
            x1 = (((x1 << r) | (x1 >> (32 - r))) & mask) ^ x0
        x0 = (x0 + schedule[(group + 1) % 3]) & mask
        x1 = (x1 + schedule[(group + 2) % 3] + group + 1) & mask
    return x0, x1


def dropout_mask(seed_key: tuple[int, int], step: int, layer: int, rows: int, columns: int, rate: float) -> Array:
    """Kept elements (rows, columns): the first word of (row, column) under the key of (seed, step, layer)."""
    step_key = threefry2x32(seed_key, step, 0)
    layer_key = threefry2x32(step_key, layer, 0)
    r, c = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    bits, _ = threefry2x32(layer_key, r.astype(object), c.astype(object))
    return (bits < round((1 - rate) * 2**32)).astype(bool)
