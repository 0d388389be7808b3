"""Everything about a JAX state that is no array: trees, names, optimizer, where arrays lie, what stands still."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from crosstrain.optim import Averaging, Clipping, OptimizerSpec
from crosstrain.precision import Precision
from crosstrain.sharding import PIPELINE_AXIS, ShardingPlan
from crosstrain_jax import naming, optim
from crosstrain_jax.host import from_words, words_of
from crosstrain_jax.models.blocks import BlockList, Places, places_of
from crosstrain_jax.models.layers import Dropout
from crosstrain_jax.precision import is_floating, unpin_types
from crosstrain_jax.sharding import Shardings, obey, place

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
    moments: tuple[NamedSharding, ...]
    shardings: Shardings
    lists: dict[str, Places]
    frozen: tuple[bool, ...] = ()
    held: frozenset[int] = frozenset()
    pulls: bool = False
    applied: dict[Clipping, Callable[..., Any]] = field(default_factory=dict)

    def update(
        self, params: Leaves, moments: Leaves, averages: Leaves, grads: Leaves, hyper: Any
    ) -> tuple[Leaves, Leaves, Leaves]:
        """One optimizer update inside a compiled step, then the average; `hyper` is `TrainState.hyper` as an array."""
        assert self.optimizer is not None
        state = jax.tree.unflatten(self.moments_tree, moments)
        params, state = self.optimizer.update(params, state, grads, (hyper[0], hyper[1]), self.frozen)
        averages = optim.update_average(averages, params, hyper[2])
        if self.pulls:
            params = optim.pull(params, averages, hyper[2], self.held)
        return params, tuple(jax.tree.leaves(state)), self.shardings.constrain(averages) if averages else ()

    @property
    def out_shardings(self) -> tuple[Any, ...]:
        """What a compiled step gives back of a state: parameters, buffers, moments, averages, count."""
        whole = self.shardings.whole
        return self.shardings.params, whole, self.moments, self.shardings.averages, whole

    def initial_moments(self, params: Leaves) -> Leaves:
        """The optimizer's moments before the first update, each born where it lies."""
        if self.optimizer is None:
            return ()
        init = self.optimizer.init
        if self.shardings.plan.is_trivial:
            return place_all(jax.tree.leaves(init(params)), self.moments)
        return jax.jit(lambda params: tuple(jax.tree.leaves(init(params))), out_shardings=self.moments)(params)

    def regrouped(self, optimizer: OptimizerSpec) -> "Layout":
        """The same structure with the optimizer that another spec makes."""
        return replace(self, **_optimizer_of(optimizer, self.params, self.shardings))

    def at(self, step: int) -> "Layout":
        """The structure of the step that comes after `step` others: what stands still in it may be another."""
        if self.optimizer is None:
            return self
        frozen = self.optimizer.frozen_at(step)
        return replace(self, frozen=frozen, held=self.optimizer.held(frozen), applied={})

    def hold(self, params: Leaves) -> Leaves:
        """The parameters, with no gradient of those that this step leaves as they are."""
        return tuple(jax.lax.stop_gradient(p) if place in self.held else p for place, p in enumerate(params))

    @property
    def stacked(self) -> dict[str, Places]:
        """The lists of blocks whose parameters a step stacks."""
        pipeline = self.shardings.plan.mesh[PIPELINE_AXIS] > 1
        return {name: places for name, places in self.lists.items() if pipeline or places.scan}

    def merge(self, params: Sequence[Any], buffers: Sequence[Any], *, train: bool) -> nnx.Module:
        """A model made of these arrays."""
        return nnx.merge(
            self.train if train else self.evaluation,
            jax.tree.unflatten(self.params_tree, params),
            jax.tree.unflatten(self.buffers_tree, buffers),
        )

    def read_buffers(self, model: nnx.Module, like: Sequence[jax.Array]) -> Leaves:
        """What the forward pass left in the model's buffers, in the types they had.

        Raises:
            ModelError: it left another variable.
        """
        naming.require_no_more(model, nnx.Not(nnx.Param), self.buffers)
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
        compiled = None if layout.optimizer is None else (layout.optimizer.key(), layout.frozen, layout.pulls)
        key = (layout.train, layout.params_tree, layout.buffers_tree, shapes, compiled)
        try:
            return self._layouts.setdefault(key, layout)
        except TypeError:  # a module with an attribute that cannot be hashed
            return layout


def bind_random(model: nnx.Module, random: Any) -> None:
    """Gives the model's dropout layers and lists of blocks the randomness of this step, or takes it away again."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Dropout | BlockList):
            module.random = random


def to_mesh(leaf: Any, sharding: NamedSharding, dtype: Any = None) -> jax.Array:
    """A copy on the mesh; floating ones in `dtype`."""
    if (words := words_of(leaf)) is not leaf:
        # `jax.device_put` of random keys knows no devices of other processes.
        return from_words(place(words, sharding), leaf)
    return place(leaf.astype(dtype) if dtype is not None and is_floating(leaf) else leaf, sharding)


def place_all(leaves: Sequence[Any], shardings: Sequence[NamedSharding], dtype: Any = None) -> Leaves:
    """Copies on the mesh, each where it lies."""
    return tuple(to_mesh(leaf, sharding, dtype) for leaf, sharding in zip(leaves, shardings, strict=True))


def make_layout(
    model: nnx.Module,
    optimizer: OptimizerSpec | None,
    plan: ShardingPlan,
    mesh: Mesh | AbstractMesh,
    precision: Precision,
    average: Averaging | None = None,
) -> Layout:
    """The structure of a model, of the optimizer that a spec makes for it, and of where both lie."""
    unpin_types(model, precision)
    model.eval()
    evaluation = nnx.split(model, nnx.Param, ...)[0]
    model.train()
    train, params, buffers = nnx.split(model, nnx.Param, ...)
    names = naming.leaves(model, nnx.Param)
    shardings = obey(plan, names, mesh)
    return Layout(
        train=train,
        evaluation=evaluation,
        params_tree=jax.tree.structure(params),
        buffers_tree=jax.tree.structure(buffers),
        params=names,
        buffers=naming.leaves(model, nnx.Not(nnx.Param)),
        shardings=shardings,
        lists=places_of(model, [leaf.name for leaf in names]),
        pulls=average is not None and average.pulls,
        **_optimizer_of(optimizer, names, shardings),
    )


def _optimizer_of(optimizer: OptimizerSpec | None, names: list[naming.Leaf], shardings: Shardings) -> dict[str, Any]:
    """The fields of a layout that follow from the optimizer."""
    if optimizer is None:
        return {"optimizer": None, "moments_tree": jax.tree.structure(()), "moments": ()}
    built = optim.build(optimizer, names)
    states = jax.eval_shape(built.init, tuple(jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in names))
    return {
        "optimizer": built,
        "moments_tree": jax.tree.structure(states),
        "moments": _moment_shardings(built, names, states, shardings),
    }


def _moment_shardings(
    optimizer: optim.Grouped, names: list[naming.Leaf], states: Any, shardings: Shardings
) -> tuple[NamedSharding, ...]:
    """Moments of a parameter's shape lie as it does; counters and factored moments are whole everywhere."""
    of_param = {leaf.name: (leaf, each) for leaf, each in zip(names, shardings.params, strict=True)}
    found = {
        id(value): of_param[leaf.name][1]
        for slot in optim.slots(optimizer, states).values()
        for leaf, value in zip(slot.names, slot.values, strict=True)
        if leaf == of_param[leaf.name][0]
    }
    return tuple(found.get(id(leaf), shardings.whole) for leaf in jax.tree.leaves(states))
