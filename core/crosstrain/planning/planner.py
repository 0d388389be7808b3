"""`Planner`: what an engine gives to `crosstrain plan`, and the plan that core makes of it."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from crosstrain import backends
from crosstrain.mesh import MeshSpec, over_slices
from crosstrain.meshes import fit_mesh, require_reducible
from crosstrain.planning.chips import Topology
from crosstrain.planning.held import Held
from crosstrain.planning.job import Job, Setup
from crosstrain.planning.report import Measured, Report
from crosstrain.precision import require_casting


class Planner(Protocol):
    """An engine's part: `planner()` in the module `planning` of its package returns one."""

    def measure(self, job: Job, topology: Topology, mesh: Mapping[str, int]) -> Measured:
        """What one device holds, computes and sends in a step, without the devices.

        Args:
            job: the step.
            topology: whose devices are planned for.
            mesh: size of every axis; their product is the number of chips.

        Raises:
            ConfigError: a topology that the engine cannot plan for, a plan that cannot work.
            DataError: a batch that the mesh does not divide.
        """
        ...

    def hold(self, setup: Setup, mesh: Mapping[str, int]) -> Held:
        """What one device holds of a state between steps, and of gradients in one, without the devices.

        Args:
            setup: what the state is made of.
            mesh: size of every axis.

        Raises:
            ConfigError: a plan that cannot work.
            ModelError: a function that makes no native model.
        """
        ...


def plan(job: Job, topology: Topology, mesh: MeshSpec, backend: str) -> Report:
    """Plans a training step.

    Raises:
        BackendError: the engine is not installed.
        ConfigError: a mesh that does not fit the chips or the engine, a precision that it does not have; see also
            `Planner.measure`.
        DataError: see `Planner.measure`.
    """
    engine = backends.load(backend)
    require_casting(job.precision, backend, engine._castings)
    sizes = fit_mesh(mesh, topology.chips, backend, engine._mesh_axes)
    require_reducible(job.precision, sizes)
    outer = {axis: count for axis, count in over_slices(sizes, topology.slices).items() if count > 1}
    measured = backends.planner(backend).measure(job, topology, sizes)
    if outer:
        note = f"{', '.join(outer)} crosses the network between slices, for which the times have no bandwidth"
        measured = dataclasses.replace(measured, notes=(*measured.notes, note))
    return Report(backend=backend, topology=topology, measured=measured)
