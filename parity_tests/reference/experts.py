"""A mixture of experts and its gradients in float64 NumPy, token by token. Imports nothing of crosstrain."""

import math
from typing import NamedTuple

import numpy as np

from parity_tests.reference import activations

Array = np.ndarray
Weights = dict[str, Array]


class Routes(NamedTuple):
    """What the router decided for the tokens of rows, (B, T, ...)."""

    probabilities: Array
    chosen: Array
    weights: Array
    kept: Array


def route(x: Array, router: Array, *, active: int, capacity: float | None) -> Routes:
    """Jiang et al. 2024 with Switch's weight for one active expert; places go to choices in the order of tokens."""
    logits = x @ router.T
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    p = exps / exps.sum(-1, keepdims=True)
    chosen = np.argsort(-p, axis=-1, kind="stable")[..., :active]
    weights = np.take_along_axis(p, chosen, -1)
    if active > 1:
        weights = weights / weights.sum(-1, keepdims=True)
    rows, length, number = p.shape
    room = length if capacity is None else math.ceil(capacity * active * length / number)
    kept = np.zeros(chosen.shape, bool)
    for row in range(rows):
        taken = [0] * number
        for token in range(length):
            for choice, expert in enumerate(chosen[row, token]):
                kept[row, token, choice] = taken[expert] < room
                taken[expert] += 1
    return Routes(p, chosen, weights, kept)


def mixture(x: Array, params: Weights, routes: Routes) -> Array:
    """Sum over a token's experts that had room of weight times output; `params` are router, w1, w2 and w3."""
    y = np.zeros_like(x)
    for row, token, choice in np.argwhere(routes.kept):
        expert = routes.chosen[row, token, choice]
        y[row, token] += routes.weights[row, token, choice] * _one(x[row, token], params, expert)
    return y


def balance(routes: Routes) -> Array:
    """Fedus et al. 2021, eq. 4-6 without alpha, of each row."""
    return routes.probabilities.shape[-1] * (_shares(routes) * routes.probabilities.mean(1)).sum(-1)


def gradients(x: Array, params: Weights, routes: Routes, g: Array, h: Array) -> Weights:
    """Back from `g`, the gradient of the outputs, and `h`, that of every row's balance, to x and the parameters."""
    back = {name: np.zeros_like(values) for name, values in {"x": x, **params}.items()}
    number, active = routes.probabilities.shape[-1], routes.chosen.shape[-1]
    dp = np.broadcast_to(h[:, None, None] * number * _shares(routes)[:, None] / x.shape[1], routes.probabilities.shape)
    dp = dp.copy()
    for row, token in np.ndindex(x.shape[:2]):
        chosen, weights = routes.chosen[row, token], routes.weights[row, token]
        dweights = np.zeros(active)
        for choice in np.flatnonzero(routes.kept[row, token]):
            expert = chosen[choice]
            dweights[choice] = g[row, token] @ _one(x[row, token], params, expert)
            matrices = {name: params[name][expert] for name in ("w1", "w2", "w3")}
            found = activations.swiglu_gradients(
                x[row, token][None], **matrices, g=weights[choice] * g[row, token][None]
            )
            back["x"][row, token] += found.pop("x")[0]
            for name, values in found.items():
                back[name][expert] += values
        if active > 1:
            total = routes.probabilities[row, token][chosen].sum()
            dweights = (dweights - dweights @ weights) / total
        dp[row, token][chosen] += dweights
    p = routes.probabilities
    dlogits = p * (dp - (dp * p).sum(-1, keepdims=True))
    back["x"] += dlogits @ params["router"]
    back["router"] += np.einsum("bte,btd->ed", dlogits, x)
    return back


def _shares(routes: Routes) -> Array:
    """Which part of a row's choices each expert is."""
    number = routes.probabilities.shape[-1]
    return (routes.chosen[..., None] == np.arange(number)).mean((1, 2))


def _one(x: Array, params: Weights, expert: int) -> Array:
    return activations.swiglu(x[None], params["w1"][expert], params["w2"][expert], params["w3"][expert])[0]
