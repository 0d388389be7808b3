"""Lion in float64 NumPy, one parameter over all its updates. Imports nothing of crosstrain."""

import numpy as np

from .optimizers import Array, Numbers, Result


def lion(
    p: Array, grads: list[Array], rates: Numbers, momenta: Numbers, *, beta2: float, weight_decay: float
) -> Result:
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(p)
    for g, rate, b1 in zip(grads, rates, momenta, strict=True):
        p = p - rate * (np.sign(b1 * m + (1 - b1) * g) + weight_decay * p)
        m = beta2 * m + (1 - beta2) * g
    return p, {"momentum": m}
