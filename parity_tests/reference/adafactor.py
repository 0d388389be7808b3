"""Adafactor in float64 NumPy, one parameter over all its updates. Imports nothing of crosstrain."""

import numpy as np

from .optimizers import Array, Numbers, Result


def adafactor(
    p: Array,
    grads: list[Array],
    rates: Numbers,
    momenta: Numbers | None,
    *,
    eps: tuple[float, float],
    clip_threshold: float,
    beta2_decay: float,
    weight_decay: float,
) -> Result:
    """Shazeer and Stern 2018, algorithms 4 and 5 in the form of torch's documentation. There is no momentum."""
    rows, columns, v = np.zeros(p.shape[:-1]), np.zeros(p.shape[:-2] + p.shape[-1:]), np.zeros_like(p)
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        beta2 = 1 - float(t) ** beta2_decay
        if p.ndim > 1:
            rows = beta2 * rows + (1 - beta2) * np.mean(g**2, axis=-1)
            columns = beta2 * columns + (1 - beta2) * np.mean(g**2, axis=-2)
            total = np.maximum(np.mean(rows, axis=-1), eps[0])
            v = np.einsum("...r,...c->...rc", rows, columns) / total[..., None, None]
        else:
            v = beta2 * v + (1 - beta2) * g**2
        u = g / np.maximum(np.sqrt(v), eps[0])
        u = u / max(1.0, rms(u) / clip_threshold)
        size = max(eps[1], rms(p)) * min(rate, 1 / np.sqrt(t))
        p = p - rate * weight_decay * p - size * u
    if p.ndim > 1:
        return p, {"row_moment": rows[..., None], "column_moment": columns[..., None, :]}
    return p, {"second_moment": v}


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))
