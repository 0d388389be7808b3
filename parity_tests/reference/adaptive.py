"""RMSprop and Adagrad in float64 NumPy, one parameter over all its updates. Imports nothing of crosstrain."""

import numpy as np

from .optimizers import Array, Numbers, Result


def rmsprop(
    p: Array,
    grads: list[Array],
    rates: Numbers,
    momenta: Numbers | None,
    *,
    alpha: float,
    eps: float,
    weight_decay: float,
) -> Result:
    """Tieleman and Hinton 2012, lecture 6.5; eps and momentum as torch has them. `momenta` is None where there is none.

    Returns:
        The parameter after all updates, and its moments by slot.
    """
    v, b = np.zeros_like(p), np.zeros_like(p)
    for i, (g, rate) in enumerate(zip(grads, rates, strict=True)):
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        u = g / (np.sqrt(v) + eps)
        b = u if momenta is None else momenta[i] * b + u
        p = p - rate * b
    return p, {"second_moment": v} | ({} if momenta is None else {"momentum": b})


def adagrad(
    p: Array, grads: list[Array], rates: Numbers, momenta: Numbers | None, *, eps: float, weight_decay: float
) -> Result:
    """Duchi et al. 2011, figure 1 with a diagonal H, delta beside the root. There is no momentum."""
    s = np.zeros_like(p)
    for g, rate in zip(grads, rates, strict=True):
        g = g + weight_decay * p
        s = s + g**2
        p = p - rate * g / (np.sqrt(s) + eps)
    return p, {"sum_of_squares": s}
