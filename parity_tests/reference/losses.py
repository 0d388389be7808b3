"""Losses and metrics in float64 NumPy, from their formulas. Imports nothing of crosstrain."""

import numpy as np

Array = np.ndarray


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropy(logits: Array, labels: Array, weights: Array, smoothing: float, ignored: int) -> tuple[float, float]:
    """(sum, weight) of -(1 - s) log p[label] - s mean(log p) (Szegedy et al. 2016) over labels that count."""
    logp = log_softmax(logits)
    counted = (labels != ignored) * np.broadcast_to(weights.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
    picked = np.take_along_axis(logp, np.where(labels == ignored, 0, labels)[..., None], -1)[..., 0]
    values = -(1 - smoothing) * picked - smoothing * logp.mean(-1)
    return float((values * counted).sum()), float(counted.sum())


def accuracy(logits: Array, labels: Array, weights: Array, ignored: int) -> tuple[float, float]:
    counted = (labels != ignored) * np.broadcast_to(weights.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
    return float(((logits.argmax(-1) == labels) * counted).sum()), float(counted.sum())


def mse(predictions: Array, targets: Array, weights: Array) -> tuple[float, float]:
    expanded = np.broadcast_to(weights.reshape(-1, *[1] * (targets.ndim - 1)), targets.shape)
    return float(((predictions - targets) ** 2 * expanded).sum()), float(expanded.sum())


def bce_with_logits(logits: Array, targets: Array, weights: Array) -> tuple[float, float]:
    """log(1 + e^x) - x y, written so that it does not overflow."""
    expanded = np.broadcast_to(weights.reshape(-1, *[1] * (targets.ndim - 1)), targets.shape)
    values = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))) - logits * targets
    return float((values * expanded).sum()), float(expanded.sum())


# Gradients of the sums with respect to the first argument; `weights` has one entry per row of (B, C).


def cross_entropy_gradient(logits: Array, labels: Array, weights: Array, smoothing: float, ignored: int) -> Array:
    """softmax - ((1 - s) onehot + s / C), for labels of shape (B,)."""
    classes = logits.shape[-1]
    target = (1 - smoothing) * np.eye(classes)[np.where(labels == ignored, 0, labels)] + smoothing / classes
    return (np.exp(log_softmax(logits)) - target) * (weights * (labels != ignored))[:, None]


def mse_gradient(predictions: Array, targets: Array, weights: Array) -> Array:
    """2 (prediction - target)."""
    return 2 * (predictions - targets) * weights[:, None]


def bce_with_logits_gradient(logits: Array, targets: Array, weights: Array) -> Array:
    """sigmoid(x) - y."""
    return (1 / (1 + np.exp(-logits)) - targets) * weights[:, None]
