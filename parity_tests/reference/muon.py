"""Muon in float64 NumPy, one parameter over all its updates. Imports nothing of crosstrain."""

import numpy as np

from . import optimizers
from .optimizers import Array, Numbers, Result


def muon(
    p: Array,
    grads: list[Array],
    rates: Numbers,
    momenta: Numbers,
    *,
    role: str,
    nesterov: bool,
    eps: float,
    fallback_scale: float,
    weight_decay: float,
) -> Result:
    """Jordan et al. 2024 for (stacks of) matrices; AdamW (betas 0.9 and 0.95, eps 1e-8) at a scaled rate for others."""
    if role == "experts":
        same = {"nesterov": nesterov, "eps": eps, "fallback_scale": fallback_scale, "weight_decay": weight_decay}
        each = [muon(one, [g[i] for g in grads], rates, momenta, role="weight", **same) for i, one in enumerate(p)]
        return np.stack([one for one, _ in each]), {"momentum": np.stack([kept["momentum"] for _, kept in each])}
    if role != "weight":
        numbers = {"beta1": [0.9] * len(grads), "beta2": 0.95, "eps": 1e-8}
        scaled = np.asarray(rates) * fallback_scale
        return optimizers.adam(p, grads, scaled, **numbers, weight_decay=weight_decay, decoupled=True)
    m = np.zeros_like(p)
    for g, rate, mu in zip(grads, rates, momenta, strict=True):
        m = mu * m + g
        u = (g + mu * m if nesterov else m).reshape(len(p), -1)
        scale = np.sqrt(max(1.0, u.shape[0] / u.shape[1]))
        p = p - rate * (scale * orthogonal(u, eps).reshape(p.shape) + weight_decay * p)
    return p, {"momentum": m}


def orthogonal(u: Array, eps: float) -> Array:
    """Five Newton-Schulz steps as what they are, an odd polynomial of the singular values."""
    left, sigma, right = np.linalg.svd(u / (np.linalg.norm(u) + eps), full_matrices=False)
    for _ in range(5):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    return (left * sigma) @ right
