"""From what differs to what probably causes it: the reading of a one-step check, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from crosstrain.parity.findings import oriented
from crosstrain.step import StepOptions

if TYPE_CHECKING:
    from crosstrain.parity.onestep import Evidence

_ALIGNED = 0.999
_APPROXIMATE = 1e-2


def between(x: np.ndarray, y: np.ndarray) -> str:
    """What kind of operation makes `y` of what should be `x`."""
    turned = oriented(x, y)
    if turned is None:
        return f"shape {x.shape} against {y.shape}"
    # The orientation that is nearest need not keep the batch first where sizes are equal; as it came, it does.
    permuted = any(x.ndim > 1 and len(x) == len(each) and _permuted(x, each) for each in (y, turned))
    y = turned
    ratio = _ratio(x, y)
    if ratio is not None:
        near = "an eps, or a norm of what is normalised already" if abs(ratio - 1.0) < _APPROXIMATE else "a scale"
        return f"the values are {ratio:.6g} times as large: {near} on one side only"
    if permuted:
        return "the same values in another order: a flatten of (C, H, W) against (H, W, C), a transpose, heads, parts"
    gap = float(np.abs(x - y).max()) / float(np.abs(x).max() or 1.0)
    if gap < _APPROXIMATE:
        return "nearly the same function: an approximation (GELU's tanh form), an eps, or lower precision"
    return "another operation, or one that only one side has"


def _permuted(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether every example has the same values, in another order."""
    a, b = (np.sort(each.reshape(len(each), -1), axis=-1) for each in (x, y))
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-9 * float(np.abs(a).max())))


def loss(activations_differ: bool) -> str:
    """Why a loss differs."""
    if activations_differ:
        return "follows from the activations"
    return "all activations agree: the loss itself (smoothing, ignored labels, reduction), or what follows the model"


def gradient(name: str, evidence: "Evidence", after: str | None, losses_differ: bool) -> str:
    """Why a gradient differs; `after` is the parameter that the backward pass reaches just before, and that agrees."""
    x, y = (probe.gradients[name] for probe in evidence.probes)
    since = f"; {after}, which the backward pass reaches before, agrees" if after else ""
    if not np.any(y) or not np.any(x):
        return f"no gradient arrives on one side: a detached or unused parameter{since}"
    if evidence.roles.get(name) == "embedding" and _rows_left_out(x, y):
        return f"rows of an embedding get no gradient on one side: `padding_idx`{since}"
    ratio = _ratio(x, y)
    if ratio is not None:
        return f"gradients are {ratio:.6g} times as large: a mean against a sum, or a scaled loss{since}"
    if losses_differ and not after:
        return "follows from the loss"
    return f"the backward pass: a custom gradient, a tie rule, a detached value{since}"


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
    kept = {slot: value for slot, value in moments.items() if not slot.startswith("average/")}
    if any(not value <= limit for slot, value in kept.items() if slot.endswith(f"/{name}")):
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


def moment(slot: str, updates: Mapping[str, float], limit: float) -> str:
    """Why a moment from equal gradients differs; `slot` is `slot/parameter`."""
    kind, _, name = slot.partition("/")
    if kind != "average":
        return "a moment accumulates differently"
    return "the average's decay or start" if updates.get(name, 0.0) <= limit else "follows from the update"


def whole(measured: Mapping[str, float], limit: float, options: tuple[StepOptions, StepOptions]) -> str:
    """Why a whole step differs although its parts agree; only what one of the sides does in a step is named."""
    accumulates = any(each.accumulate_steps > 1 for each in options)
    if not measured["loss"] <= limit:
        how = "accumulation: how losses of micro-batches are averaged"
        return how if accumulates else "the step reports another loss than one pass over its batch does"
    if not measured["grad_norm"] <= limit:
        how = "accumulation: gradients of micro-batches are summed or averaged with other weights"
        return how if accumulates else "the step has other gradients than one pass over its batch"
    if any(each.clip_norm is not None or each.clip_value is not None for each in options):
        return "gradient clipping: its norm, its order, or its limit"
    return "the step changes weights otherwise than its gradients and its optimizer do by themselves"


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


def _rows_left_out(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two matrices agree in every row that is 0 in neither."""
    if x.shape != y.shape:
        return False
    both = x.any(axis=1) & y.any(axis=1)
    return np.allclose(x[both], y[both], rtol=1e-9, atol=1e-9 * float(np.abs(x).max()))


def _aligned(gap: np.ndarray, weights: np.ndarray) -> bool:
    if gap.shape != weights.shape:
        return False
    norms = float(np.linalg.norm(gap)) * float(np.linalg.norm(weights))
    return norms > 0 and abs(float(np.sum(gap * weights))) / norms > _ALIGNED
