"""Updates, clipping and averages in float64 NumPy, from the papers' formulas. Imports nothing of crosstrain."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Numbers = Sequence[float] | Array
Result = tuple[Array, dict[str, Array]]


def sgd(
    p: Array, grads: list[Array], rates: Numbers, *, momentum: Numbers, nesterov: bool, weight_decay: float
) -> Result:
    """Sutskever et al. 2013 in torch's form: g' = g + wd p; m = mu m + g'; u = g' + mu m or m; p = p - lr u.

    Returns:
        The parameter after all updates, and its moments by slot.
    """
    m = np.zeros_like(p)
    for g, rate, mu in zip(grads, rates, momentum, strict=True):
        g = g + weight_decay * p
        m = mu * m + g
        p = p - rate * (g + mu * m if nesterov else m)
    return p, {"momentum": m}


def adam(
    p: Array,
    grads: list[Array],
    rates: Numbers,
    *,
    beta1: Numbers,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> Result:
    """Kingma and Ba 2015, algorithm 1; decoupled decay: Loshchilov and Hutter 2019, algorithm 2."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (g, rate, b1) in enumerate(zip(grads, rates, beta1, strict=True), start=1):
        if not decoupled:
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        p = p - rate * (step + weight_decay * p if decoupled else step)
    return p, {"first_moment": m, "second_moment": v}


def global_norm(grads: dict[str, Array]) -> float:
    """L2 norm over all gradients together."""
    return float(np.sqrt(sum(float(np.sum(g**2)) for g in grads.values())))


def clip_by_global_norm(grads: dict[str, Array], limit: float) -> dict[str, Array]:
    """Pascanu et al. 2013: g min(1, limit / norm) over all gradients together; zeros stay zeros."""
    norm = global_norm(grads)
    return {name: g * min(1.0, limit / norm) if norm > 0 else g for name, g in grads.items()}


def clip_by_value(grads: dict[str, Array], limit: float) -> dict[str, Array]:
    """min(max(g, -limit), limit), element by element."""
    return {name: np.minimum(np.maximum(g, -limit), limit) for name, g in grads.items()}


def accumulate(sums: list[dict[str, Array]], weights: list[float]) -> dict[str, Array]:
    """The gradient over all micro-batches: the sum of the gradients of sums, by the sum of weights."""
    return {name: sum(part[name] for part in sums) / sum(weights) for name in sums[0]}


def ema(start: Array, weights: list[Array], decay: float) -> Array:
    """a = decay a + (1 - decay) p after every step, from the initial weights."""
    average = start
    for p in weights:
        average = decay * average + (1 - decay) * p
    return average


def swa(start: Array, weights: list[Array], first: int, every: int) -> Array:
    """Izmailov et al. 2018: the mean of the weights after steps first, first + every, ...; before, the initial ones."""
    sampled = weights[first::every]
    return np.mean(sampled, axis=0) if sampled else start


def lookahead(start: Array, grads: list[Array], rate: float, every: int, share: float) -> tuple[Array, Array]:
    """Zhang et al. 2019, algorithm 1, around plain gradient descent: the fast and the slow weights."""
    slow = fast = start
    for inner, g in enumerate(grads, 1):
        fast = fast - rate * g
        if inner % every == 0:
            slow = slow + share * (fast - slow)
            fast = slow
    return fast, slow
