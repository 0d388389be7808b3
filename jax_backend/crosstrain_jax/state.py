"""`JaxState`: a model and its optimizer as flat tuples of arrays, and the static layout that gives them their form.

Carrying trees through `jit` costs several times the smallest step itself, so model and optimizer are flattened once,
in `prepare`; the step donates the leaves, and a live model is rebuilt only when somebody asks.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from crosstrain.data.sources import as_array
from crosstrain.errors import require_instance
from crosstrain.optim import Averaging, Clipping, OptimizerSpec, Role
from crosstrain.precision import Precision
from crosstrain.sharding import ShardingPlan
from crosstrain.snapshot import LazyArrays, Snapshot, check_names, check_slots
from crosstrain.state import Gradients, StateBytes, TrainState, foreign_gradients
from crosstrain_jax import naming, optim
from crosstrain_jax.host import by_name, from_words, lazily, to_canonical, words_of
from crosstrain_jax.layout import Layout, LayoutCache, Leaves, make_layout, place_all, to_mesh
from crosstrain_jax.precision import is_floating, param_dtype, scope, to_host


class JaxGradients(Gradients):
    """Gradients in the order of the state's parameters."""

    def __init__(self, layout: Layout, leaves: Leaves) -> None:
        self.layout, self.leaves = layout, leaves

    def to_host(self) -> dict[str, np.ndarray]:
        """See `crosstrain.Gradients`."""
        return to_canonical(self.layout.params, self.leaves)


class JaxState(TrainState):
    """See `crosstrain.TrainState`."""

    def __init__(
        self,
        model: nnx.Module,
        optimizer: OptimizerSpec | None,
        average: Averaging | None = None,
        *,
        precision: Precision,
        mesh: Mesh,
        layouts: LayoutCache,
        plan: ShardingPlan,
    ) -> None:
        super().__init__(optimizer, average, plan)
        self._precision = precision
        with scope(precision):
            self._layouts, self._base = layouts, make_layout(model, optimizer, plan, mesh, precision, average)
            self._phases: dict[tuple[bool, ...], Layout] = {}
            params, buffers = nnx.split(model, nnx.Param, ...)[1:]
            dtype, shardings = param_dtype(precision), self.layout.shardings
            self.params: Leaves = place_all(jax.tree.leaves(params), shardings.params, dtype)
            self.buffers: Leaves = tuple(self._copy(leaf, dtype) for leaf in jax.tree.leaves(buffers))
            self.moments: Leaves = self.layout.initial_moments(self.params)
            self.averages: Leaves = place_all(self.params, shardings.params) if average is not None else ()
            self.count = self._copy(jnp.uint32(0))

    @property
    def layout(self) -> Layout:
        """The structure of the step that comes next: one for each set of parameters that stand still."""
        optimizer = self._base.optimizer
        frozen = () if optimizer is None else optimizer.frozen_at(self._step)
        if frozen not in self._phases:
            self._phases[frozen] = self._layouts.intern(self._base.at(self._step))
        return self._phases[frozen]

    @property
    def model(self) -> nnx.Module:
        """A model over the current arrays, in training mode; the next step donates them."""
        return self.layout.merge(self.params, self.buffers, train=True)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `crosstrain.TrainState`."""
        return naming.shapes(self.layout.params)

    @property
    def parameter_roles(self) -> dict[str, Role]:
        """See `crosstrain.TrainState`."""
        return {leaf.name: leaf.role for leaf in self.layout.params}

    @property
    def device_bytes(self) -> StateBytes:
        """See `crosstrain.TrainState`."""
        return StateBytes(
            parameters=_bytes(self.params),
            gradients=0,
            optimizer=_bytes(self.moments),
            average=_bytes(self.averages),
            buffers=_bytes((*self.buffers, self.count)),
        )

    def apply_gradients(
        self, gradients: Gradients, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        """See `crosstrain.TrainState`."""
        if not isinstance(gradients, JaxGradients) or gradients.layout.params != self.layout.params:
            raise foreign_gradients(gradients)
        clipping = Clipping(norm=clip_norm, value=clip_value)
        hyper = np.asarray(self.hyper(), self._precision.loss_dtype)
        if clipping not in self.layout.applied:
            self.layout.applied[clipping] = self._compile_apply(clipping)
        with scope(self._precision):
            self.params, self.moments, self.averages, self.count = self.layout.applied[clipping](
                self.params, self.moments, self.averages, self.count, gradients.leaves, hyper
            )
        self._step += 1

    def to_gradients(self, values: Mapping[str, np.ndarray]) -> JaxGradients:
        """See `crosstrain.TrainState`."""
        check_names("gradients", self.parameter_shapes, values)
        with scope(self._precision):
            return JaxGradients(self.layout, self._from_canonical(self.layout.params, self.params, values))

    def view(self) -> Snapshot:
        """See `crosstrain.TrainState`."""
        layout = self.layout
        return Snapshot(
            step=self._step,
            params=lazily(layout.params, self.params),
            buffers=lazily(*self._floating_buffers()),
            moments={slot: lazily(*kept) for slot, kept in self._slots().items()},
            averages=lazily(layout.params, self.averages) if self.averages else {},
            native=LazyArrays(
                {f"jax/{leaf.name}": (array.shape, partial(to_host, array)) for leaf, array in self._counters().items()}
            ),
        )

    def load(self, snapshot: Snapshot) -> None:
        """See `crosstrain.TrainState`."""
        require_instance("snapshot", snapshot, Snapshot, "dataclasses.replace(state.snapshot(), params=weights)")
        names, buffers = self._floating_buffers()
        check_names("params", self.parameter_shapes, snapshot.params)
        check_names("buffers", naming.shapes(names), snapshot.buffers)
        check_slots({slot: naming.shapes(kept.names) for slot, kept in self._slots().items()}, snapshot)
        if snapshot.averages and self.averages:
            check_names("averages", self.parameter_shapes, snapshot.averages)
        with scope(self._precision):
            self.params = self._from_canonical(self.layout.params, self.params, snapshot.params)
            placed = dict(zip(names, self._from_canonical(names, buffers, snapshot.buffers), strict=True))
            placed |= self._native(snapshot)
            self.buffers = tuple(
                placed.get(leaf, old) for leaf, old in zip(self.layout.buffers, self.buffers, strict=True)
            )
            self._load_moments(snapshot)
            if snapshot.averages and self.averages:
                self.averages = self._from_canonical(self.layout.params, self.averages, snapshot.averages)
            self.count = self._copy(jnp.uint32(snapshot.step))
        self._step = snapshot.step

    def arrays(self) -> dict[str, Any]:
        """Everything this state holds, as a tree of arrays by name, in flax's layout; random keys as their words."""
        names, buffers = self.layout.params, [words_of(buffer) for buffer in self.buffers]
        return {
            "params": by_name(names, self.params),
            "buffers": by_name(self.layout.buffers, buffers),
            "averages": by_name(names, self.averages) if self.averages else {},
            "moments": {f"{index:05d}": moment for index, moment in enumerate(self.moments)},
            "count": self.count,
        }

    def set_arrays(self, values: Mapping[str, Any], step: int) -> None:
        """Replaces all of `arrays`."""
        names = self.layout.params
        self.params = tuple(values["params"][leaf.name] for leaf in names)
        words = [values["buffers"][leaf.name] for leaf in self.layout.buffers]
        self.buffers = tuple(
            old if old is new else from_words(new, old) for new, old in zip(words, self.buffers, strict=True)
        )
        if self.averages:
            self.averages = tuple(values["averages"][leaf.name] for leaf in names)
        self.moments = tuple(values["moments"][name] for name in sorted(values["moments"]))
        self.count = values["count"]
        self._step = step

    def keep(self) -> Callable[[], None]:
        """See `crosstrain.TrainState`."""
        with scope(self._precision):
            copies, step = jax.tree.map(jnp.copy, self.arrays()), self._step

        def put_back() -> None:
            with scope(self._precision):
                self.set_arrays(copies, step)

        return put_back

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """64-bit mode where this state needs it."""
        return scope(self._precision)

    def _compile_apply(self, clipping: Clipping) -> Callable[..., Any]:
        layout = self.layout

        def apply(params: Leaves, moments: Leaves, averages: Leaves, count: Any, grads: Leaves, hyper: Any) -> Any:
            # Those that stand still do not count in the norm; the gradients may be of another step, or from the host.
            grads = tuple(jnp.zeros_like(grad) if place in layout.held else grad for place, grad in enumerate(grads))
            grads = optim.clip(grads, clipping)
            return *layout.update(params, moments, averages, grads, hyper), count + 1

        params, _, *others = layout.out_shardings
        return jax.jit(apply, donate_argnums=(0, 1, 2, 3), out_shardings=(params, *others))

    def _regroup(self) -> None:
        slots = self._slots().items()
        kept = {slot: {leaf.name: value for leaf, value in zip(*each, strict=True)} for slot, each in slots}
        with scope(self._precision):
            self._base, self._phases = self._base.regrouped(self.optimizer), {}
            self.moments = self._base.initial_moments(self.params)
            order = self._slots().items()
            values = {slot: tuple(kept[slot][leaf.name] for leaf in each.names) for slot, each in order}
            self._set_moments(values, self._moment_states(), self._step)

    def _moment_states(self) -> Any:
        return jax.tree.unflatten(self.layout.moments_tree, self.moments)

    def _slots(self) -> dict[str, optim.Slot]:
        optimizer = self.layout.optimizer
        return optim.slots(optimizer, self._moment_states()) if optimizer is not None else {}

    def _load_moments(self, snapshot: Snapshot) -> None:
        optimizer = self.layout.optimizer
        if optimizer is None or not snapshot.moments:
            return
        values = {slot: self._from_canonical(*kept, snapshot.moments[slot]) for slot, kept in self._slots().items()}
        self._set_moments(values, self._moment_states(), snapshot.step)

    def _set_moments(self, values: Mapping[str, Leaves], states: Any, step: int) -> None:
        assert self._base.optimizer is not None
        states = optim.with_slots(self._base.optimizer, self.optimizer, states, values, step)
        self.moments = place_all(jax.tree.leaves(states), self._base.moments)

    def _floating_buffers(self) -> tuple[list[naming.Leaf], Leaves]:
        pairs = [pair for pair in zip(self.layout.buffers, self.buffers, strict=True) if is_floating(pair[1])]
        return [leaf for leaf, _ in pairs], tuple(array for _, array in pairs)

    def _counters(self) -> dict[naming.Leaf, jax.Array]:
        """Random keys, as the words they are made of, and counters."""
        pairs = zip(self.layout.buffers, self.buffers, strict=True)
        return {leaf: words_of(array) for leaf, array in pairs if not is_floating(array)}

    def _native(self, snapshot: Snapshot) -> dict[naming.Leaf, jax.Array]:
        old = dict(zip(self.layout.buffers, self.buffers, strict=True))
        found = {leaf: snapshot.native.get(f"jax/{leaf.name}") for leaf in self._counters()}
        return {
            leaf: self._copy(from_words(jnp.asarray(words), old[leaf]))
            for leaf, words in found.items()
            if words is not None
        }

    def _from_canonical(self, names: list[naming.Leaf], old: Leaves, values: Any) -> Leaves:
        return tuple(
            to_mesh(leaf.from_canonical(as_array(values[leaf.name])), array.sharding, array.dtype)
            for leaf, array in zip(names, old, strict=True)
        )

    def _copy(self, leaf: Any, dtype: Any = None) -> jax.Array:
        return to_mesh(leaf, self.layout.shardings.whole, dtype)


def _bytes(arrays: Leaves) -> int:
    return sum(array.addressable_data(0).nbytes for array in arrays)
