"""`estimate_memory`: the bytes of a training state, to the byte, without a device or an array."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from crosstrain import backends
from crosstrain.errors import ConfigError, require_spec
from crosstrain.mesh import MeshSpec
from crosstrain.meshes import fit_mesh
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.planning.held import Held
from crosstrain.planning.job import Setup
from crosstrain.planning.units import binary
from crosstrain.precision import Precision, require_casting
from crosstrain.sharding import ShardingRules

LEFT_OUT = (
    "activations and the batch, weights while they are gathered or cast, what collectives and kernels take for "
    "themselves, and the framework's own memory; `crosstrain plan` counts those it can"
)
"""What an estimate does not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate(Held):
    """What a training state holds. `estimate.device.total` are the bytes of one device.

    Attributes:
        backend: the engine whose state it is; engines count their updates in arrays of other sizes.
        setup: model, optimizer, precision, sharding and average.
    """

    backend: str
    setup: Setup

    def table(self) -> str:
        """Text: a line for each part, of one device and of one whole copy, and what is left out."""
        rows = [("", "per device", "bytes", "whole", "bytes")]
        for name, label in _LABELS.items():
            here, whole = getattr(self.device, name), getattr(self.whole, name)
            rows.append((label, binary(here), f"{here:,}", binary(whole), f"{whole:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
            for pairs in ([*zip(row, widths, strict=True)] for row in rows)
        ]
        return "\n".join([self._title(), *(line.rstrip() for line in lines), f"left out: {LEFT_OUT}"])

    def _title(self) -> str:
        precision, model = self.setup.precision, self.setup.model
        kind = model.kind if isinstance(model, ModelConfig) else getattr(model, "__name__", "model")
        used = ", ".join(f"{axis}={size}" for axis, size in self.plan.mesh.items() if size > 1) or "one device"
        return (
            f"{kind}, {self.plan.size:,} parameters, {type(self.setup.optimizer).__name__}, weights in "
            f"{precision.param_dtype}, compute in {precision.compute_dtype}; {self.backend}, {used}"
        )


_LABELS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "average": "average of the weights",
    "buffers": "buffers and counters",
    "total": "total",
}


def estimate_memory(
    model: ModelConfig | Callable[[], Any],
    optimizer: OptimizerSpec,
    *,
    backend: str | None = None,
    precision: Precision | str = "fp32",
    mesh: MeshSpec | None = None,
    sharding: ShardingRules | None = None,
    average: Averaging | None = None,
) -> MemoryEstimate:
    """What `Accelerator.prepare` would hold of a model and its optimizer, and gradients beside it, to the byte.

        print(ct.estimate_memory(ct.models.GPTConfig(dim=4096), ct.adamw(1e-3), mesh=ct.MeshSpec(fsdp=8)).table())

    Only shapes are made, on no device.

    Args:
        model: a paired model's config, or a function that makes a native model.
        optimizer: its numbers do not matter, except that a momentum of 0 keeps none.
        backend: the engine; None takes the one that is installed.
        precision: as of `Accelerator`.
        mesh: size of each axis; `data` is 1 where it is left open. By default one device.
        sharding: as of `Accelerator`.
        average: as of `Accelerator.prepare`.

    Returns:
        Bytes of one device, and of one whole copy over all devices. In a pipeline, of its first stage.

    Raises:
        BackendError: the engine is not installed.
        ConfigError: no config or function, no optimizer spec, an open axis other than `data`, a mesh that the engine
            or the model cannot use, a precision that the engine does not have.
        ModelError: a function that makes no native model.
    """
    if not isinstance(model, ModelConfig) and not (inspect.isroutine(model) or isinstance(model, functools.partial)):
        raise ConfigError(
            f"model must be a config of ct.models or a function that makes a model, got {_named(model)}. Use for "
            "example ct.models.GPTConfig(), or lambda: MyModel()."
        )
    if not isinstance(optimizer, OptimizerSpec):
        raise ConfigError(
            f"optimizer must be an OptimizerSpec, got {_named(optimizer)}. Use for example ct.adamw(1e-3)."
        )
    require_spec("mesh", mesh, MeshSpec, "ct.MeshSpec(fsdp=8)")
    require_spec("sharding", sharding, ShardingRules, "ct.ShardingRules()")
    require_spec("average", average, Averaging, "ct.ema(0.999)")
    setup = Setup(
        model=model,
        optimizer=optimizer,
        precision=Precision.parse(precision),
        sharding=sharding or ShardingRules(),
        average=average,
    )
    return estimate(setup, backends.name_of(backend), mesh or MeshSpec())


def estimate(setup: Setup, backend: str, mesh: MeshSpec) -> MemoryEstimate:
    """The same for what a file has defined, on an engine that is installed.

    Raises:
        ConfigError: see `estimate_memory`.
        ModelError: see there.
    """
    mesh = dataclasses.replace(mesh, data=1) if mesh.data == -1 else mesh
    sizes = {each.name: getattr(mesh, each.name) for each in fields(mesh)}
    still_open = [name for name, size in sizes.items() if size == -1]
    if still_open:
        raise ConfigError(
            f"mesh must give a size to every axis but data, got {still_open[0]}=-1: no device is asked for how many "
            f"there are. Use for example {still_open[0]}=8."
        )
    engine = backends.load(backend)
    require_casting(setup.precision, backend, engine._castings)
    sizes = fit_mesh(mesh, math.prod(sizes.values()), backend, engine._mesh_axes)
    held = backends.planner(backend).hold(setup, sizes)
    return MemoryEstimate(backend=backend, setup=setup, plan=held.plan, device=held.device, whole=held.whole)


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
