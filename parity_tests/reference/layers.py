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


def running_statistics(x: Array, mean: Array, var: Array, *, momentum: float) -> tuple[Array, Array]:
    """torch's form: running = (1 - momentum) running + momentum new, with the unbiased variance of the batch."""
    new_mean, new_var = x.mean((0, 1, 2)), x.var((0, 1, 2), ddof=1)
    return (1 - momentum) * mean + momentum * new_mean, (1 - momentum) * var + momentum * new_var


def batch_norm_gradients(x: Array, weight: Array, g: Array, *, eps: float) -> NormGradients:
    """Ioffe and Szegedy 2015, section 3: back from `g`, the gradient of the output, through mean and variance."""
    axes = (0, 1, 2)
    std = np.sqrt(x.var(axes) + eps)
    xhat, dxhat = (x - x.mean(axes)) / std, g * weight
    dx = (dxhat - dxhat.mean(axes) - xhat * (dxhat * xhat).mean(axes)) / std
    return NormGradients(dx, (g * xhat).sum(axes), g.sum(axes))


def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    """Zhang and Sennrich 2019: x / sqrt(mean(x^2) + eps) weight over the last dimension."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rms_norm_gradients(x: Array, weight: Array, g: Array, *, eps: float) -> NormGradients:
    """Back from `g` through the mean square; there is no bias, its gradient is empty."""
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
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
