"""Canonical names and layouts of a flax nnx model.

Flax and torch name and lay out the same parameter differently; the canonical form is torch's. The rules go by the
type of the layer that owns the variable:

| layer | flax | canonical |
|---|---|---|
| Linear | kernel (in, out) | weight (out, in) |
| Conv | kernel (*window, in, out) | weight (out, in, *window) |
| Embed | embedding | weight |
| norms | scale | weight |
| BatchNorm | mean, var | running_mean, running_var |

Anything else keeps its path and layout.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from crosstrain.optim import Role

_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One variable.

    Attributes:
        name: the canonical one.
        axes: the permutation of dimensions from flax's layout to the canonical one.
        role: what it is, for weight decay and groups.
    """

    name: str
    axes: tuple[int, ...]
    role: Role

    def to_canonical(self, values: np.ndarray) -> np.ndarray:
        """From flax's layout."""
        return np.ascontiguousarray(np.transpose(values, self.axes))

    def from_canonical(self, values: np.ndarray) -> np.ndarray:
        """To flax's layout."""
        return np.transpose(values, np.argsort(self.axes))

    def canonical_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The canonical shape of a variable of `shape`."""
        return tuple(shape[axis] for axis in self.axes)


def leaves(model: nnx.Module, kind: Any) -> list[Leaf]:
    """The variables of `kind` (an nnx filter), in the order in which `nnx.state(model, kind)` flattens."""
    owners = dict(nnx.iter_modules(model))
    return [
        _leaf(path, len(variable.get_value().shape), owners.get(path[:-1]))
        for path, variable in nnx.to_flat_state(nnx.state(model, kind))
    ]


def _leaf(path: tuple[Any, ...], ndim: int, owner: Any) -> Leaf:
    *prefix, last = (str(part) for part in path)
    identity = tuple(range(ndim))
    name, axes = last, identity
    if isinstance(owner, nnx.Linear) and last == "kernel":
        name, axes = "weight", (1, 0)
    elif isinstance(owner, nnx.Conv) and last == "kernel":
        name, axes = "weight", (ndim - 1, ndim - 2, *range(ndim - 2))
    elif (isinstance(owner, nnx.Embed) and last == "embedding") or (
        (isinstance(owner, _NORMS) or getattr(owner, "canonical_norm", False)) and last == "scale"
    ):
        name = "weight"
    if last in ("mean", "var") and (isinstance(owner, nnx.BatchNorm) or getattr(owner, "canonical_norm", False)):
        name = f"running_{last}"
    return Leaf(".".join([*prefix, name]), axes, _role(owner, last))


def _role(owner: Any, name: str) -> Role:
    if isinstance(owner, _NORMS) or getattr(owner, "canonical_norm", False):
        return "norm"
    if name == "bias":
        return "bias"
    return "embedding" if isinstance(owner, nnx.Embed) else "weight"
