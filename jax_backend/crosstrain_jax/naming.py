"""Canonical names and layouts of a flax nnx model.

Flax and torch name and lay out the same parameter differently; the canonical form is torch's. The rules go by the
type of the layer that owns the variable:

| layer | flax | canonical |
|---|---|---|
| Linear | kernel (in, out) | weight (out, in) |
| LinearGeneral (attention) | kernel (*in, *out) | weight (out, in), heads merged |
| Conv | kernel (*window, in, out) | weight (out, in, *window) |
| ConvTranspose | kernel (*window, in, out), with transpose_kernel (*window, out, in) | weight (in, out, *window) |
| Embed | embedding | weight |
| PReLU | negative_slope () | weight (1,) |
| norms | scale | weight |
| BatchNorm | mean, var | running_mean, running_var |

Layers that `nnx.vmap` has made together are one, whose variables have a dimension more in front, which stays there.
Anything else keeps its path and layout, also LinearGeneral made so. Torch slides the window of a transposed convolution
the other way round than flax does without `transpose_kernel`: it is turned round on the way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from crosstrain.errors import ModelError
from crosstrain.optim import Role
from crosstrain.optim.roles import is_bias

_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One variable.

    Attributes:
        name: the canonical one.
        axes: the permutation of dimensions from flax's layout to the canonical one.
        role: what it is, for weight decay and groups.
        shape: flax's shape.
        split: how many of the permuted dimensions form the canonical first dimension, the others forming the second
            (attention projections keep heads apart); 0 where dimensions stay as they are. A scalar that is split
            has the canonical shape (1,).
        turned: how many of the last canonical dimensions, those of a window, are turned round.
    """

    name: str
    axes: tuple[int, ...]
    role: Role
    shape: tuple[int, ...]
    split: int = 0
    turned: int = 0

    def to_canonical(self, values: Any) -> Any:
        """From flax's layout; an array of NumPy or, inside a compiled step, of JAX."""
        return self._turn(values.transpose(self.axes).reshape(self.canonical_shape))

    def from_canonical(self, values: Any) -> Any:
        """To flax's layout, as `to_canonical`."""
        return self._turn(values).reshape(self._permuted).transpose(np.argsort(self.axes).tolist())

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """The shape in the canonical layout."""
        if not self.split:
            return self._permuted
        parts = (self._permuted[: self.split], self._permuted[self.split :])
        return tuple(math.prod(part) for part in parts if part) or (1,)

    def parts(self, dimension: int) -> list[int]:
        """The dimensions in flax's layout that form a canonical dimension, the outermost first."""
        if not self.split:
            return [self.axes[dimension]]
        return list((self.axes[: self.split], self.axes[self.split :])[dimension])

    def _turn(self, values: Any) -> Any:
        return values[..., *[slice(None, None, -1)] * self.turned] if self.turned else values

    @property
    def _permuted(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)


def leaves(model: nnx.Module, kind: Any) -> list[Leaf]:
    """The variables of `kind` (an nnx filter), in the order in which `nnx.state(model, kind)` flattens.

    Arrays that are attributes themselves, such as a table of positions, are variables that are no parameters.
    """
    owners = dict(nnx.iter_modules(model))
    flat = nnx.to_flat_state(nnx.state(model, kind))
    return [_leaf(path, tuple(_value(found).shape), owners.get(path[:-1])) for path, found in flat]


def require_no_more(model: nnx.Module, kind: Any, known: Sequence[Leaf]) -> None:
    """Refuses variables of `kind` that a model has got in a forward pass, where a step has no place for them.

    Raises:
        ModelError: names the first.
    """
    owners, names = dict(nnx.iter_modules(model)), {leaf.name for leaf in known}
    for path, found in nnx.to_flat_state(nnx.state(model, kind)):
        leaf = _leaf(path, (), owners.get(path[:-1]))
        values = jax.tree.leaves(_value(found))
        if leaf.name not in names or len(values) > 1:
            raise ModelError(
                "a model must keep the variables that it was prepared with, got another one after its forward pass: "
                f"{leaf.name} ({type(found).__name__}). Return what `sow` stores from the model's call, or make the "
                "variable, an array, in __init__."
            )


def _value(found: Any) -> Any:
    return found.get_value() if isinstance(found, nnx.Variable) else found


def shapes(names: Sequence[Leaf]) -> dict[str, tuple[int, ...]]:
    """Canonical name -> canonical shape."""
    return {leaf.name: leaf.canonical_shape for leaf in names}


def definition_order(model: nnx.Module) -> list[str]:
    """Canonical paths of all modules, each with the names of its own variables behind it, parents before children.

    The order is that in which attributes were assigned.
    """
    owners = dict(nnx.iter_modules(model))

    def position(path: tuple[Any, ...]) -> tuple[int, ...]:
        steps = []
        for depth, part in enumerate(path):
            attributes = [str(name) for name in vars(owners.get(path[:depth], model))]
            steps.append(attributes.index(str(part)) if str(part) in attributes else len(attributes))
        return tuple(steps)

    def own(path: tuple[Any, ...]) -> list[str]:
        found = [name for name, value in vars(owners[path]).items() if isinstance(value, nnx.Variable)]
        return [_leaf((*path, name), (), owners[path]).name for name in found]

    ordered = sorted(owners, key=position)
    return [name for path in ordered for name in (".".join(str(part) for part in path), *own(path))]


def _leaf(path: tuple[Any, ...], shape: tuple[int, ...], owner: Any) -> Leaf:
    *prefix, last = (str(part) for part in path)
    ndim = len(shape)
    name, axes, split, turned = last, tuple(range(ndim)), 0, 0
    norm = isinstance(owner, _NORMS) or getattr(owner, "canonical_norm", False)
    if isinstance(owner, nnx.LinearGeneral):
        inputs, outputs = _count(owner.in_features), _count(owner.out_features)
        if ndim > (inputs + outputs if last == "kernel" else outputs):
            pass  # of several layers: not a matrix, but as many
        elif last == "kernel":
            name, axes, split = "weight", (*range(inputs, ndim), *range(inputs)), ndim - inputs
        else:
            split = ndim
    elif isinstance(owner, nnx.Linear) and last == "kernel":
        name, axes = "weight", (*range(ndim - 2), ndim - 1, ndim - 2)
    elif isinstance(owner, nnx.Conv) and last == "kernel":
        layers = ndim - 2 - len(owner.kernel_size)
        name, axes = "weight", (*range(layers), ndim - 1, ndim - 2, *range(layers, ndim - 2))
    elif isinstance(owner, nnx.ConvTranspose) and last == "kernel":
        window = len(owner.kernel_size)
        layers, turned = ndim - 2 - window, 0 if owner.transpose_kernel else window
        channels = (ndim - 2, ndim - 1) if turned else (ndim - 1, ndim - 2)
        name, axes = "weight", (*range(layers), *channels, *range(layers, ndim - 2))
    elif isinstance(owner, nnx.PReLU):
        name, split = "weight", 1
    elif (isinstance(owner, nnx.Embed) and last == "embedding") or (norm and last == "scale"):
        name = "weight"
    elif norm and last in ("mean", "var"):
        name = f"running_{last}"
    return Leaf(".".join([*prefix, name]), axes, _role(owner, last), shape, split, turned)


def _count(features: Any) -> int:
    return len(features) if isinstance(features, tuple) else 1


def _role(owner: Any, name: str) -> Role:
    if isinstance(owner, _NORMS) or getattr(owner, "canonical_norm", False):
        return "norm"
    if is_bias(name):
        return "bias"
    if getattr(owner, "stacked_experts", False):
        return "experts"
    return "embedding" if isinstance(owner, nnx.Embed) else "weight"
