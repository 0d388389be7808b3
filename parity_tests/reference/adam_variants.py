"""NAdam, RAdam and LAMB in float64 NumPy, one parameter over all its updates. Imports nothing of crosstrain."""

import numpy as np

from .optimizers import Array, Numbers, Result


def nadam(
    p: Array,
    grads: list[Array],
    rates: Numbers,
    momenta: Numbers,
    *,
    beta2: float,
    eps: float,
    momentum_decay: float,
    weight_decay: float,
) -> Result:
    """Dozat 2016, algorithm 2 and the schedule of its section 3, mu_t = b1 (1 - 0.5 0.96^(t psi)); torch's v."""
    m, v, mus = np.zeros_like(p), np.zeros_like(p), []
    for t, (g, rate, b1) in enumerate(zip(grads, rates, momenta, strict=True), start=1):
        mu, mu_next = (b1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
        mus.append(mu)
        g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_bar = mu_next * m / (1 - np.prod([*mus, mu_next])) + (1 - mu) * g / (1 - np.prod(mus))
        p = p - rate * m_bar / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p, {"first_moment": m, "second_moment": v}


def radam(
    p: Array, grads: list[Array], rates: Numbers, momenta: Numbers, *, beta2: float, eps: float, weight_decay: float
) -> Result:
    """Liu et al. 2020, algorithm 2, which adapts where rho_t > 4; the authors' code and torch: 5."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    rho_inf = 2 / (1 - beta2) - 1
    for t, (g, rate, b1) in enumerate(zip(grads, rates, momenta, strict=True), start=1):
        g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - b1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            p = p - rate * m_hat * r * np.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
        else:
            p = p - rate * m_hat
    return p, {"first_moment": m, "second_moment": v}


def lamb(
    p: Array, grads: list[Array], rates: Numbers, momenta: Numbers, *, beta2: float, eps: float, weight_decay: float
) -> Result:
    """You et al. 2020, algorithm 2 with phi(z) = z; a ratio with a norm of 0 is 1."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (g, rate, b1) in enumerate(zip(grads, rates, momenta, strict=True), start=1):
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * p
        lengths = np.sqrt(np.sum(p**2)), np.sqrt(np.sum(r**2))
        p = p - rate * (lengths[0] / lengths[1] if all(lengths) else 1.0) * r
    return p, {"first_moment": m, "second_moment": v}
