"""Plans on JAX: the training step itself, compiled ahead of time for devices that are not there."""

import contextlib
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from crosstrain.backends import raise_wrong_model
from crosstrain.errors import ConfigError
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.planning import Held, Job, Measured, Memory, Setup, StateBytes, Topology
from crosstrain.precision import Precision
from crosstrain.sharding import ShardingPlan, plan_model
from crosstrain_jax import models, naming
from crosstrain_jax.flops import matmul_flops
from crosstrain_jax.hlo import Exchanges, exchanges
from crosstrain_jax.layout import Layout, make_layout
from crosstrain_jax.objective import Runtime
from crosstrain_jax.precision import is_floating, param_dtype, scope
from crosstrain_jax.sharding import abstract_mesh, batch_sharding, build_mesh
from crosstrain_jax.step import TrainRun

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
Shapes = tuple[jax.ShapeDtypeStruct, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AbstractState:
    """A `JaxState` of shapes: its leaves say how large they are and where they lie, and take no memory."""

    layout: Layout
    params: Shapes
    buffers: Shapes
    moments: Shapes
    averages: Shapes
    count: jax.ShapeDtypeStruct


def abstract_state(
    model: nnx.Module,
    optimizer: OptimizerSpec,
    average: Averaging | None,
    *,
    precision: Precision,
    mesh: Mesh | AbstractMesh,
    plan: ShardingPlan,
) -> AbstractState:
    """What `JaxState` would hold of a model whose leaves are shapes, see `flax.nnx.eval_shape`."""
    with scope(precision):
        layout, dtype = make_layout(model, optimizer, plan, mesh, precision, average).at(step=0), param_dtype(precision)
        shardings, whole = layout.shardings, partial(_shape, sharding=layout.shardings.whole)
        params, buffers = (jax.tree.leaves(each) for each in nnx.split(model, nnx.Param, ...)[1:])
        placed = tuple(_shape(leaf, where, dtype) for leaf, where in zip(params, shardings.params, strict=True))
        assert layout.optimizer is not None
        moments = jax.tree.leaves(jax.eval_shape(layout.optimizer.init, placed))
        return AbstractState(
            layout=layout,
            params=placed,
            buffers=tuple(whole(leaf, dtype=dtype) for leaf in buffers),
            moments=tuple(_shape(leaf, where) for leaf, where in zip(moments, layout.moments, strict=True)),
            averages=() if average is None else placed,
            count=whole(jax.ShapeDtypeStruct((), np.uint32)),
        )


def planned_state(
    setup: Setup, mesh: Mesh | AbstractMesh, sizes: Mapping[str, int]
) -> tuple[AbstractState, ShardingPlan]:
    """What `Accelerator.prepare` would hold on this mesh."""
    with scope(setup.precision):
        model = nnx.eval_shape(_maker(setup.model))
    if not isinstance(model, nnx.Module):
        raise_wrong_model(model, "jax", "flax.nnx.Module")
    plan = plan_model(model, naming.shapes(naming.leaves(model, nnx.Param)), sizes, setup.sharding)
    state = abstract_state(model, setup.optimizer, setup.average, precision=setup.precision, mesh=mesh, plan=plan)
    return state, plan


def trace_step(job: Job, mesh: Mesh, sizes: Mapping[str, int]) -> tuple[jax.stages.Traced, ShardingPlan]:
    """The program that `Accelerator.train_step` would run on this mesh; `.lower().compile()` needs no devices."""
    state, plan = planned_state(job, mesh, sizes)
    batch = {
        name: jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=batch_sharding(mesh))
        for name, values in job.placed_batch(sizes, wide_integers=False).items()
    }
    run = TrainRun(job.loss_fn, job.options, Runtime(job.precision, mesh, seed=0))
    return run.trace(state, batch), plan


class JaxPlanner:
    """See `crosstrain.planning.Planner`."""

    def measure(self, job: Job, topology: Topology, mesh: Mapping[str, int]) -> Measured:
        """See `crosstrain.planning.Planner`."""
        native = build_mesh(_devices(topology), mesh)
        traced, plan = trace_step(job, native, mesh)
        start = time.perf_counter()
        flops = matmul_flops(traced.jaxpr) / topology.chips
        try:
            with scope(job.precision):
                compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _refused(str(error), plan, flops, time.perf_counter() - start)
        found = exchanges(compiled.as_text(), dict(native.shape))
        notes = [] if found.complete else ["a loop does not say how often it runs, its collectives count once"]
        notes += ["transfers between slices are not in the table"] if topology.slices > 1 else []
        return _measured(compiled, found, plan, flops, time.perf_counter() - start, notes)

    def hold(self, setup: Setup, mesh: Mapping[str, int]) -> Held:
        """See `crosstrain.planning.Planner`."""
        state, plan = planned_state(setup, abstract_mesh(mesh), mesh)
        return Held(
            plan=plan,
            device=_bytes(state, lambda leaf: leaf.sharding.shard_shape(leaf.shape)),
            whole=_bytes(state, lambda leaf: leaf.shape),
        )


def planner() -> JaxPlanner:
    """For `crosstrain.backends.planner`."""
    return JaxPlanner()


def _maker(model: ModelConfig | Callable[[], Any]) -> Callable[[], Any]:
    if isinstance(model, ModelConfig):
        return lambda: models.MODELS[model.kind](model, rngs=nnx.Rngs(0))
    return model


def _shape(leaf: Any, sharding: NamedSharding, dtype: Any = None) -> jax.ShapeDtypeStruct:
    kind = dtype if dtype is not None and is_floating(leaf) else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=sharding)


def _bytes(state: AbstractState, held: Callable[[Any], tuple[int, ...]]) -> StateBytes:
    """Bytes of what is held of each leaf."""

    def size(leaves: Shapes) -> int:
        return sum(math.prod(held(leaf)) * leaf.dtype.itemsize for leaf in leaves)

    return StateBytes(
        parameters=size(state.params),
        gradients=size(state.params),
        optimizer=size(state.moments),
        average=size(state.averages),
        buffers=size((*state.buffers, state.count)),
    )


def _measured(
    compiled: jax.stages.Compiled,
    found: Exchanges,
    plan: ShardingPlan,
    flops: float,
    compile_s: float,
    notes: list[str],
) -> Measured:
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    return Measured(
        plan=plan,
        memory=Memory(
            state=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
        ),
        flops=flops,
        hbm_bytes=costs.get("bytes accessed"),
        collectives=found.collectives,
        complete=found.complete,
        notes=tuple(notes),
        compile_s=compile_s,
    )


def _refused(message: str, plan: ShardingPlan, flops: float, compile_s: float) -> Measured:
    """The compiler says `Used 56.89G of 15.75G hbm` instead of giving a program."""
    used = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    memory = None
    if used:
        need, limit = (float(used[i]) * _UNITS[used[i + 1]] for i in (1, 3))
        memory = Memory(state=0.0, outputs=0.0, temporaries=need, limit=limit)
    first = message.strip().splitlines()[0]
    return Measured(
        plan=plan, memory=memory, flops=flops, hbm_bytes=None, collectives=(), refusal=first, compile_s=compile_s
    )


def _devices(topology: Topology) -> list[jax.Device]:
    """Devices to compile for: this machine's own virtual ones, or a description of a TPU pod's."""
    if topology.chip is None:
        return _virtual(topology.chips)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"libtpu must be installed to compile for topology={topology.name}, got none. "
            "Run: pip install 'crosstrain[tpu-plan]', or use a topology such as cpu:8."
        )
    # libtpu asks the metadata server of a TPU host for its place unless it is told that there is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            topology_name=topology.name, platform="tpu", num_slices=topology.slices
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"topology must be one that libtpu knows, got topology={topology.name!r}: {str(error).splitlines()[0]}."
        ) from error
    devices = list(described.devices)
    if len(devices) != topology.chips:
        raise ConfigError(
            f"topology must have one device per chip, got {len(devices)} devices for the {topology.chips} chips of "
            f"topology={topology.name!r}. Plan for v5e, v5p or v6e."
        )
    return devices


def _virtual(count: int) -> list[jax.Device]:
    with contextlib.suppress(RuntimeError):  # JAX runs already; what it has may be enough
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ConfigError(
            f"topology must have at most the {len(devices)} CPU devices that JAX was started with, got cpu:{count}. "
            "Plan before anything else uses JAX in this process."
        )
    return devices[:count]
