"""Devices, mesh and shardings of the JAX engine."""

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from crosstrain.errors import ConfigError
from crosstrain.mesh import over_slices
from crosstrain.sharding import (
    ACTIVATIONS,
    BATCH_AXES,
    EXPERT_AXIS,
    PIPELINE_AXIS,
    SEQUENCE_AXIS,
    ParamPlan,
    ShardingPlan,
)
from crosstrain_jax.naming import Leaf
from crosstrain_jax.threads import enough_threads

_OUTER_TO_INNER = ("pipeline", "data", "fsdp", "expert", "context", "tensor")
"""Neighbouring devices, whose links are the fastest, take the axes that talk most."""


def choose_devices(platform: str | None, own: bool = False) -> list[jax.Device]:
    """All devices of the run, over all processes, or this process's `own`.

    Raises:
        ConfigError: the platform is not there.
    """
    enough_threads()
    try:
        return jax.local_devices(backend=platform) if own else jax.devices(platform)
    except RuntimeError as error:
        there = jax.default_backend()
        raise ConfigError(
            f"platform must be there, got platform={platform!r} but JAX finds {there}. Use platform={there!r}."
        ) from error


def build_mesh(devices: list[jax.Device], sizes: Mapping[str, int]) -> Mesh:
    """The mesh with every axis of `MeshSpec`, most of size 1; the compiler chooses shardings inside the step.

    Several slices of TPUs are joined along the axes that `over_slices` says.

    Raises:
        ConfigError: axes that the slices do not divide.
    """
    shape = tuple(sizes[axis] for axis in _OUTER_TO_INNER)
    on_tpu = devices[0].platform == "tpu"  # elsewhere devices are in the order of their hosts, which is enough
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if on_tpu else 1
    if slices == 1:
        # An axis may lie along several dimensions of the torus, and share one with others.
        arranged = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        outer = over_slices(sizes, slices)
        between = tuple(outer.get(axis, 1) for axis in _OUTER_TO_INNER)
        within = tuple(size // count for size, count in zip(shape, between, strict=True))
        arranged = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return Mesh(arranged, _OUTER_TO_INNER, axis_types=(AxisType.Auto,) * len(shape))


def abstract_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
    """The same mesh of no devices."""
    shape = tuple(sizes[axis] for axis in _OUTER_TO_INNER)
    return AbstractMesh(shape, _OUTER_TO_INNER, axis_types=(AxisType.Auto,) * len(shape))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, ndim: int = 1) -> NamedSharding:
    """First dimension split over the axes that see different examples, the second, if any, over `context`."""
    cut = ndim > 1 and mesh.shape[SEQUENCE_AXIS] > 1
    return NamedSharding(mesh, P(BATCH_AXES, SEQUENCE_AXIS) if cut else P(BATCH_AXES))


def is_pipelined(mesh: Mesh) -> bool:
    """Whether the devices hold different blocks of a model."""
    return mesh.shape[PIPELINE_AXIS] > 1


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts the devices split a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_parts(mesh: Mesh) -> tuple[dict[int, tuple[int, ...]], int]:
    """Which parts of every batch the devices of each process hold, in ascending order, and how many there are.

    As few as they can be: one for each process where all hold neighbours.
    """
    count = batch_devices(mesh)
    held: dict[int, set[int]] = {}
    for device, index in batch_sharding(mesh).devices_indices_map((count,)).items():
        held.setdefault(device.process_index, set()).add(index[0].indices(count)[0])
    mine = {process: tuple(sorted(parts)) for process, parts in held.items()}
    size = min(map(len, mine.values()))
    if all(len(p) == size and p[0] % size == 0 and p[-1] - p[0] == size - 1 for p in mine.values()):
        return {process: (parts[0] // size,) for process, parts in mine.items()}, count // size
    return mine, count


def sequence_parts() -> int:
    """Over how many devices a crosstrain step that is being traced splits sequences; 1 outside of one."""
    return _traced_size(SEQUENCE_AXIS)


def pipeline_stages() -> int:
    """Stages of the pipeline in a crosstrain step that is being traced; 1 outside of one."""
    return _traced_size(PIPELINE_AXIS)


def expert_parts() -> int:
    """Over how many devices a crosstrain step that is being traced splits experts; 1 outside of one."""
    return _traced_size(EXPERT_AXIS)


def splits_examples() -> bool:
    """Whether a crosstrain step that is being traced splits examples, or positions in them, over devices."""
    return any(_traced_size(axis) > 1 for axis in (*BATCH_AXES, SEQUENCE_AXIS))


def _traced_size(axis: str) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else dict(mesh.shape).get(axis, 1)


def constrain(values: jax.Array, *axes: str | None) -> jax.Array:
    """Says how an activation lies, by the meaning of its dimensions; changes nothing outside a crosstrain step.

    Without it the compiler may carry a parameter's layout into the activations, and move them back and forth.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or not set(mesh.axis_names) >= set(_OUTER_TO_INNER):
        return values
    return jax.lax.with_sharding_constraint(values, P(*(ACTIVATIONS.get(axis) for axis in axes)))


def place(values: Any, sharding: NamedSharding) -> jax.Array:
    """A copy on the mesh; never the caller's own buffer, which a step would donate.

    An array of the host that is split goes to the devices in parts: none of them ever holds it whole.
    """
    if isinstance(values, np.ndarray) and not sharding.is_fully_replicated:
        return jax.make_array_from_callback(values.shape, sharding, lambda index: np.array(values[index]))
    return jax.device_put(values, sharding, may_alias=False)


@dataclass(frozen=True, eq=False, slots=True)
class Shardings:
    """Where a state's arrays lie.

    Attributes:
        plan: what this obeys.
        whole: on every device.
        params: of each parameter, and of its average and gradient.
        used: of each parameter while the model runs: gathered over `fsdp` and `pipeline`; the same object where
            nothing changes.
        tables: whether each parameter is an embedding.
    """

    plan: ShardingPlan
    whole: NamedSharding
    params: tuple[NamedSharding, ...]
    used: tuple[NamedSharding, ...]
    tables: tuple[bool, ...]

    def as_whole(self) -> "Shardings":
        """The same for arrays that a device has gathered."""
        whole = (self.whole,) * len(self.params)
        return replace(self, params=whole, used=whole)

    def gather(self, params: Sequence[jax.Array], but: Collection[int] = ()) -> tuple[jax.Array, ...]:
        """Parameters as the model uses them, inside a compiled step, but for those in some places.

        Their gradients come back split.
        """
        return tuple(param if place in but else self.gather_one(place, param) for place, param in enumerate(params))

    def gather_one(self, place: int, param: jax.Array) -> jax.Array:
        """One of them, by its place among all."""
        here, there = self.params[place], self.used[place]
        return param if here is there else _gather(param, here, there, self.tables[place])

    def stack(self, params: Sequence[jax.Array], place: int) -> jax.Array:
        """The same parameter of several blocks, (...) each, as one array (blocks, ...); the first block's is `place`.

        It lies as they do; with a pipeline each device has those of its own blocks, gathered over `fsdp`. The part
        that it had of all blocks is exchanged for them: an all-to-all.
        """
        here, there, mesh = self.params[place].spec, self.used[place].spec, self.whole.mesh
        stacked = jnp.stack(params)
        if mesh.shape[PIPELINE_AXIS] > 1:
            own = without(here, PIPELINE_AXIS)
            specs = [P(None, *here), P(PIPELINE_AXIS, *own), P(PIPELINE_AXIS, *there)]
            before, owned, used = (NamedSharding(mesh, spec) for spec in specs)
            stacked = _gather(_gather(stacked, before, owned, False), owned, used, False)
        elif any(here):
            stacked = jax.lax.with_sharding_constraint(stacked, NamedSharding(mesh, P(None, *here)))
        return stacked

    @property
    def averages(self) -> NamedSharding | None:
        """For `jit`, whatever the number of averages: None where each is constrained inside the step."""
        return self.whole if self.plan.is_trivial else None

    def constrain(self, params: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Arrays like the parameters, laid out as they are, inside a compiled step."""
        if self.plan.is_trivial:
            return tuple(params)
        pairs = zip(params, self.params, strict=True)
        return tuple(jax.lax.with_sharding_constraint(param, sharding) for param, sharding in pairs)


def obey(plan: ShardingPlan, leaves: Sequence[Leaf], mesh: Mesh | AbstractMesh) -> Shardings:
    """The shardings that a plan means for parameters in flax's layout."""
    whole = replicated(mesh)
    specs = [_at_rest(leaf, plan.params[leaf.name], mesh) for leaf in leaves]
    params = tuple(NamedSharding(mesh, P(*spec)) if any(spec) else whole for spec in specs)
    used = []
    for spec, sharding in zip(specs, params, strict=True):
        gathered = without(spec, "fsdp", PIPELINE_AXIS)
        used.append(sharding if gathered == spec else NamedSharding(mesh, P(*gathered)))
    tables = tuple(leaf.role == "embedding" for leaf in leaves)
    return Shardings(plan, whole, params, tuple(used), tables)


def without(spec: Iterable[Any], *axes: str) -> list[tuple[str, ...]]:
    """The mesh axes of each dimension but for some."""
    each = ((entry,) if isinstance(entry, str) else entry or () for entry in spec)
    return [tuple(axis for axis in entry if axis not in axes) for entry in each]


def _at_rest(leaf: Leaf, param: ParamPlan, mesh: Mesh | AbstractMesh) -> list[tuple[str, ...]]:
    """Mesh axes of each dimension between steps.

    What one stage of a pipeline holds in a step all of them share between steps, along the largest part of a
    dimension that they divide: arrays of one program lie on all of its devices.
    """
    spec, stages = _spec(leaf, param, mesh), mesh.shape[PIPELINE_AXIS]
    if param.stage is None:
        return spec
    local = [size // math.prod(mesh.shape[axis] for axis in axes) for size, axes in zip(leaf.shape, spec, strict=True)]
    fitting = [index for index, size in enumerate(local) if size % stages == 0]
    if fitting:
        chosen = max(fitting, key=lambda index: local[index])
        spec[chosen] = (*spec[chosen], PIPELINE_AXIS)
    return spec


def _spec(leaf: Leaf, param: ParamPlan, mesh: Mesh | AbstractMesh) -> list[tuple[str, ...]]:
    """Mesh axes of each dimension in flax's layout, where canonical dimensions may stand apart (attention heads)."""
    spec: list[tuple[str, ...]] = [()] * len(leaf.shape)
    for dimension, axes in enumerate(param.axes):
        if not axes:
            continue
        parts = leaf.parts(dimension)
        count = math.prod(mesh.shape[axis] for axis in axes)
        divisible = [part for part in parts if leaf.shape[part] % count == 0]
        if divisible:
            spec[divisible[0]] = axes
    return spec


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(param: jax.Array, here: NamedSharding, there: NamedSharding, table: bool) -> jax.Array:
    # Left to itself the compiler may split activations instead of gathering parameters.
    return jax.lax.with_sharding_constraint(param, there)


def _gather_forward(param: jax.Array, here: NamedSharding, there: NamedSharding, table: bool) -> tuple[jax.Array, None]:
    return _gather(param, here, there, table), None


def _gather_backward(
    here: NamedSharding, there: NamedSharding, table: bool, _: None, grad: jax.Array
) -> tuple[jax.Array]:
    if table:
        # Its gradient is a scatter, for which the compiler would move the activations to where the table's parts lie.
        grad = jax.lax.with_sharding_constraint(grad, there)
    return (jax.lax.with_sharding_constraint(grad, here),)


_gather.defvjp(_gather_forward, _gather_backward)
