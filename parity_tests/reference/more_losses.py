"""More losses and metrics in float64 NumPy, from their formulas, with gradients. Imports nothing of crosstrain.

A loss gives (sum, weight, gradients of sum / weight by input).
"""

import numpy as np

Array = np.ndarray
Result = tuple[float, float, dict[str, Array]]


def expand(weights: Array, shape: tuple[int, ...]) -> Array:
    """One weight per example -> one per element."""
    return np.broadcast_to(weights.reshape(-1, *[1] * (len(shape) - 1)), shape)


def weighted(values: Array, slopes: dict[str, Array], counted: Array) -> Result:
    """Sum and weight of elementwise values whose derivatives are `slopes`."""
    total = counted.sum()
    return (
        float((values * counted).sum()),
        float(total),
        {name: each * counted / total for name, each in slopes.items()},
    )


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logsumexp(x: Array) -> Array:
    top = x.max(-1)
    return top + np.log(np.exp(x - top[..., None]).sum(-1))


def cross_entropy(logits: Array, labels: Array, weights: Array, *, s: float, z: float, ignored: int) -> Result:
    """(1 - s) (l - logits[label]) + s (l - mean) + z l^2: Szegedy et al. 2016; Chowdhery et al. 2022."""
    counted = (labels != ignored) * expand(weights, labels.shape)
    onehot = np.eye(logits.shape[-1])[np.where(labels == ignored, 0, labels)]
    target = (1 - s) * onehot + s / logits.shape[-1]
    log_z, p = logsumexp(logits), softmax(logits)
    values = log_z - (target * logits).sum(-1) + z * log_z**2
    slope = p - target + 2 * z * log_z[..., None] * p
    total = counted.sum()
    return float((values * counted).sum()), float(total), {"logits": slope * (counted / total)[..., None]}


def mse(x: Array, y: Array, weights: Array) -> Result:
    d = x - y
    return weighted(d**2, {"x": 2 * d, "y": -2 * d}, expand(weights, d.shape))


def mae(x: Array, y: Array, weights: Array) -> Result:
    """With derivative 0 at 0."""
    d = x - y
    return weighted(np.abs(d), {"x": np.sign(d), "y": -np.sign(d)}, expand(weights, d.shape))


def huber(x: Array, y: Array, weights: Array, *, delta: float) -> Result:
    """Huber 1964, piece by piece."""
    d = x - y
    values = np.where(np.abs(d) <= delta, d**2 / 2, delta * (np.abs(d) - delta / 2))
    slope = np.where(np.abs(d) <= delta, d, delta * np.sign(d))
    return weighted(values, {"x": slope, "y": -slope}, expand(weights, d.shape))


def bce_with_logits(x: Array, y: Array, weights: Array) -> Result:
    """-y log sigmoid(x) - (1 - y) log sigmoid(-x)."""
    values = y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)
    return weighted(values, {"x": 1 / (1 + np.exp(-x)) - y, "y": -x}, expand(weights, x.shape))


def kl_div(x: Array, y: Array, weights: Array, mask: Array) -> Result:
    """sum p (log p - log q) of p = softmax(x), q = softmax(y); dKL/dx = p (log p - log q - KL), dKL/dy = q - p."""
    p, q = softmax(x), softmax(y)
    ratio = np.where(p > 0, x - y, 0.0) - (logsumexp(x) - logsumexp(y))[..., None]
    values = (p * ratio).sum(-1)
    counted = mask * expand(weights, mask.shape)
    shares = (counted / counted.sum())[..., None]
    slopes = {"x": p * (ratio - values[..., None]) * shares, "y": (q - p) * shares}
    return float((values * counted).sum()), float(counted.sum()), slopes


def top_k(logits: Array, labels: Array, weights: Array, *, k: int, ignored: int) -> tuple[float, float]:
    """Whether the label is among the first k of a stable sort, largest first."""
    first = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    right = (first == labels[..., None]).any(-1)
    counted = (labels != ignored) * expand(weights, labels.shape)
    return float((right * counted).sum()), float(counted.sum())
