"""Several meshes for one step, ranked."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crosstrain.errors import ConfigError, DataError
from crosstrain.mesh import MeshSpec
from crosstrain.planning.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One mesh: its report, or why it cannot be used."""

    mesh: str
    report: Report | None
    refusal: str = ""


def candidates(chips: int) -> list[MeshSpec]:
    """Meshes worth a try: data parallel, and parameters split over all chips with 1, 2, 4 and 8 of them per matrix."""
    tensor = [size for size in (1, 2, 4, 8) if chips % size == 0 and size < chips]
    sharded = [MeshSpec(data=1, fsdp=chips // size, tensor=size) for size in tensor]
    return [*sharded, MeshSpec(data=chips)]


def sweep(meshes: Iterable[MeshSpec], plan: Callable[[MeshSpec], Report]) -> list[Outcome]:
    """Plans every mesh and ranks them: those that fit, by the estimated step; then the others, by their memory.

    Args:
        meshes: to try; one that the model or the batch does not allow is an outcome, too.
        plan: plans one of them.
    """
    outcomes = []
    for mesh in meshes:
        try:
            report = plan(mesh)
            outcomes.append(Outcome(mesh=report.mesh, report=report))
        except (ConfigError, DataError) as error:
            outcomes.append(Outcome(mesh=mesh.describe(), report=None, refusal=str(error)))
    return sorted(outcomes, key=_rank)


def _rank(outcome: Outcome) -> tuple[float, ...]:
    report = outcome.report
    if report is None:
        return (2,)
    memory = report.measured.memory.total if report.measured.memory else math.inf
    if report.fits is False:
        return 1, memory
    # Between no overlap and full overlap; without a chip nothing but bytes can be compared.
    times = report.times
    return 0, (times.overlapped + times.serial) / 2 if times else report.sent_bytes, memory
