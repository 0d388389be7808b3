"""Activations and their derivatives in float64 NumPy, from their formulas. Imports nothing of crosstrain."""

import math

import numpy as np

Array = np.ndarray
_erf = np.vectorize(math.erf, otypes=[np.float64])


def relu(x: Array) -> tuple[Array, Array]:
    """Value and derivative of max(x, 0); the derivative at 0 is 0."""
    return np.where(x > 0, x, 0.0), np.where(x > 0, 1.0, 0.0)


def gelu(x: Array) -> tuple[Array, Array]:
    """Hendrycks and Gimpel 2016: x Phi(x), where Phi is the normal distribution; its derivative Phi(x) + x phi(x)."""
    distribution = 0.5 * (1 + _erf(x / math.sqrt(2)))
    return x * distribution, distribution + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x: Array) -> tuple[Array, Array]:
    """Hendrycks and Gimpel 2016: x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    slope = math.sqrt(2 / math.pi)
    tanh = np.tanh(slope * (x + 0.044715 * x**3))
    inner = slope * (1 + 3 * 0.044715 * x**2)
    return x * (1 + tanh) / 2, (1 + tanh) / 2 + x * (1 - tanh**2) * inner / 2


def silu(x: Array) -> tuple[Array, Array]:
    """Elfwing et al. 2017: x s with s = 1 / (1 + exp(-x)); its derivative s (1 + x (1 - s))."""
    sigmoid = 0.5 * (1 + np.tanh(x / 2))
    return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))


def swiglu(x: Array, w1: Array, w2: Array, w3: Array) -> Array:
    """Shazeer 2020: w2 (silu(w1 x) * w3 x), with weights (out, in)."""
    return (silu(x @ w1.T)[0] * (x @ w3.T)) @ w2.T


def swiglu_gradients(x: Array, w1: Array, w2: Array, w3: Array, g: Array) -> dict[str, Array]:
    """Back from `g`, the gradient of the output, to the input and the weights; x is (B, in)."""
    (gate, slope), value = silu(x @ w1.T), x @ w3.T
    hidden = g @ w2
    dgate, dvalue = hidden * value * slope, hidden * gate
    return {
        "x": dgate @ w1 + dvalue @ w3,
        "w1": dgate.T @ x,
        "w2": g.T @ (gate * value),
        "w3": dvalue.T @ x,
    }
