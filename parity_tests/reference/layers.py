"""Layers in float64 NumPy, from their formulas. Imports nothing of crosstrain."""

import numpy as np

Array = np.ndarray


def batch_norm(x: Array, mean: Array, var: Array, *, eps: float, momentum: float) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015 on (B, H, W, C): output, and running statistics with the unbiased variance."""
    n = x.size // x.shape[-1]
    batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - batch_mean) / np.sqrt(batch_var + eps)
    return (
        y,
        (1 - momentum) * mean + momentum * batch_mean,
        (1 - momentum) * var + momentum * batch_var * n / (n - 1),
    )


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
