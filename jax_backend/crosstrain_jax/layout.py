"""Everything about a JAX state that is not an array: trees, names, the optimizer, what stands still. No twin: torch
modules hold their own arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from crosstrain.optim import Clipping, OptimizerSpec
from crosstrain_jax import naming, optim
from crosstrain_jax.models.layers import Dropout
from crosstrain_jax.precision import is_floating, unpin_types

Leaves = tuple[jax.Array, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Everything about a state that is not an array. Compared by identity: compiled steps are kept per layout."""

    train: Any
    evaluation: Any
    params_tree: Any
    buffers_tree: Any
    params: list[naming.Leaf]
    buffers: list[naming.Leaf]
    optimizer: optim.Grouped | None
    moments_tree: Any
    frozen: tuple[bool, ...] = ()
    held: frozenset[int] = frozenset()
    applied: dict[Clipping, Callable[..., Any]] = field(default_factory=dict)

    def update(
        self, params: Leaves, moments: Leaves, averages: Leaves, grads: Leaves, hyper: Any
    ) -> tuple[Leaves, Leaves, Leaves]:
        """One optimizer update inside a compiled step, then the average; `hyper` is `TrainState.hyper` as an array."""
        assert self.optimizer is not None
        state = jax.tree.unflatten(self.moments_tree, moments)
        params, state = self.optimizer.update(params, state, grads, (hyper[0], hyper[1]), self.frozen)
        return params, tuple(jax.tree.leaves(state)), optim.update_average(averages, params, hyper[2])

    def hold(self, params: Leaves) -> Leaves:
        """The parameters, with no gradient of those that this step leaves as they are."""
        return tuple(jax.lax.stop_gradient(p) if place in self.held else p for place, p in enumerate(params))

    def merge(self, params: Sequence[Any], buffers: Sequence[Any], *, train: bool) -> nnx.Module:
        """A model made of these arrays."""
        return nnx.merge(
            self.train if train else self.evaluation,
            jax.tree.unflatten(self.params_tree, params),
            jax.tree.unflatten(self.buffers_tree, buffers),
        )

    def read_buffers(self, model: nnx.Module, like: Sequence[jax.Array]) -> Leaves:
        """What the forward pass left in the model's buffers, in the types they had."""
        leaves = jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))
        return tuple(
            leaf.astype(old.dtype) if is_floating(leaf) else leaf for leaf, old in zip(leaves, like, strict=True)
        )


class LayoutCache:
    """Gives states of equal structure and optimizer one layout, so that they share compiled steps."""

    def __init__(self) -> None:
        self._layouts: dict[Any, Layout] = {}

    def intern(self, layout: Layout) -> Layout:
        """The layout that was seen first with this structure; `layout` itself when the model cannot be compared."""
        shapes = tuple(leaf.shape for leaf in (*layout.params, *layout.buffers))
        compiled = None if layout.optimizer is None else (layout.optimizer.key(), layout.frozen)
        key = (layout.train, layout.params_tree, layout.buffers_tree, shapes, compiled)
        try:
            return self._layouts.setdefault(key, layout)
        except TypeError:  # a module with an attribute that cannot be hashed
            return layout


def bind_random(model: nnx.Module, random: Any) -> None:
    """Gives the model's dropout layers the randomness of this step, or takes it away again."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Dropout):
            module.random = random


def make_layout(model: nnx.Module, optimizer: OptimizerSpec | None) -> Layout:
    """The structure of a model and of the optimizer that a spec makes for it."""
    unpin_types(model)
    model.eval()
    evaluation = nnx.split(model, nnx.Param, ...)[0]
    model.train()
    train, params, buffers = nnx.split(model, nnx.Param, ...)
    names = naming.leaves(model, nnx.Param)
    built = optim.build(optimizer, names) if optimizer is not None else None
    moments = jax.eval_shape(built.init, tuple(jax.tree.leaves(params))) if built is not None else ()
    return Layout(
        train=train,
        evaluation=evaluation,
        params_tree=jax.tree.structure(params),
        buffers_tree=jax.tree.structure(buffers),
        params=names,
        buffers=naming.leaves(model, nnx.Not(nnx.Param)),
        optimizer=built,
        moments_tree=jax.tree.structure(moments),
    )
