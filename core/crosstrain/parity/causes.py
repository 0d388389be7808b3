"""From what differs to what probably causes it: the reading of a one-step check, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crosstrain.parity.onestep import Evidence

_ALIGNED = 0.999


def activation(name: str, measured: Mapping[str, float], limit: float) -> str:
    """The last module that still agreed, since the difference may come from an operation between the two."""
    earlier = None
    for other, value in measured.items():
        if other == name:
            break
        if value <= limit and not name.startswith(f"{other}.") and other:
            earlier = other
    place = f"in {name or 'the model'}"
    return f"{place}, or between {earlier} (the last output that agrees) and it" if earlier else place


def loss(activations_differ: bool) -> str:
    """Why a loss differs."""
    if activations_differ:
        return "follows from the activations"
    return "all activations agree: the loss itself (smoothing, ignored labels, reduction), or what follows the model"


def gradient(name: str, evidence: "Evidence") -> str:
    """Why a gradient differs."""
    x, y = (probe.gradients[name] for probe in evidence.probes)
    ratio = _ratio(x, y)
    if ratio is not None:
        return f"gradients are {ratio:.6g} times as large: a mean against a sum, or a scaled loss"
    if not np.any(y) or not np.any(x):
        return "no gradient arrives on one side: a detached or unused parameter"
    return "the backward pass (a custom gradient, a tie rule, a detached value), or a layer after this one"


def buffer(name: str, evidence: "Evidence") -> str:
    """Why a running statistic differs."""
    old, x, y = evidence.start.buffers[name], evidence.a.buffers[name], evidence.b.buffers[name]
    if x.shape != y.shape:
        return "another shape"
    del old
    if name.endswith("var"):
        return "the momentum convention, or the biased against the unbiased variance (n / (n - 1))"
    return "the momentum convention of the running statistics"


def update(name: str, evidence: "Evidence", moments: Mapping[str, float], limit: float) -> str:
    """Why an update from equal gradients differs."""
    old = evidence.start.params[name]
    x, y = evidence.a.params[name] - old, evidence.b.params[name] - old
    if any(not value <= limit for slot, value in moments.items() if slot.endswith(f"/{name}")):
        if _aligned(_moment_gap(name, evidence), old):
            return (
                "its moments differ by a multiple of the weights: coupled against decoupled weight decay, or its value"
            )
        return "its moments differ: betas, momentum, or coupled weight decay"
    if _aligned(y - x, old):
        role = evidence.roles.get(name, "weight")
        extra = f" (this is a {role}: the decay mask)" if role in ("bias", "norm") else ""
        return f"the updates differ by a multiple of the weights: weight decay{extra}"
    ratio = _ratio(x, y)
    if ratio is not None:
        return f"the update is {ratio:.6g} times as large: the learning rate, or bias correction"
    return "its moments agree: eps, bias correction, nesterov, or how the update is scaled"


def whole(name: str, measured: Mapping[str, float], limit: float) -> str:
    """Why a whole step differs although its parts agree."""
    if not measured["loss"] <= limit:
        return "accumulation: how losses of micro-batches are averaged"
    if not measured["grad_norm"] <= limit:
        return "accumulation: gradients of micro-batches are summed or averaged with other weights"
    return "gradient clipping: its norm, its order, or its limit"


def _moment_gap(name: str, evidence: "Evidence") -> np.ndarray:
    for slot, values in evidence.a.moments.items():
        if name in values and slot in ("momentum", "first_moment"):
            return evidence.b.moments[slot][name] - values[name]
    return np.zeros(())


def _ratio(x: np.ndarray, y: np.ndarray) -> float | None:
    """The constant c with y = c x, or None."""
    norm = float(np.sum(x * x))
    if not norm or x.shape != y.shape:
        return None
    c = float(np.sum(x * y)) / norm
    # The factor has to explain the difference, not just be near 1.
    return c if np.abs(y - c * x).max() <= 1e-3 * np.abs(y - x).max() else None


def _aligned(gap: np.ndarray, weights: np.ndarray) -> bool:
    if gap.shape != weights.shape:
        return False
    norms = float(np.linalg.norm(gap)) * float(np.linalg.norm(weights))
    return norms > 0 and abs(float(np.sum(gap * weights))) / norms > _ALIGNED
