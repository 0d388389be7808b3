"""Optimizer updates in float64 NumPy, from the papers' formulas. Imports nothing of crosstrain."""

import numpy as np

Array = np.ndarray


def sgd(
    p: Array, grads: list[Array], rates: list[float], *, momentum: list[float], nesterov: bool, weight_decay: float
) -> Array:
    """Sutskever et al. 2013 in torch's form: g' = g + wd p; m = mu m + g'; u = g' + mu m or m; p = p - lr u."""
    m = np.zeros_like(p)
    for g, rate, mu in zip(grads, rates, momentum, strict=True):
        g = g + weight_decay * p
        m = mu * m + g
        p = p - rate * (g + mu * m if nesterov else m)
    return p


def adam(
    p: Array,
    grads: list[Array],
    rates: list[float],
    *,
    beta1: list[float],
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> Array:
    """Kingma and Ba 2015, algorithm 1; decoupled decay: Loshchilov and Hutter 2019, algorithm 2."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (g, rate, b1) in enumerate(zip(grads, rates, beta1, strict=True), start=1):
        if not decoupled:
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        p = p - rate * (step + weight_decay * p if decoupled else step)
    return p


def clip_by_global_norm(grads: dict[str, Array], limit: float) -> dict[str, Array]:
    """Pascanu et al. 2013: g min(1, limit / norm) over all gradients together."""
    norm = np.sqrt(sum(float(np.sum(g**2)) for g in grads.values()))
    return {name: g * min(1.0, limit / norm) for name, g in grads.items()}
