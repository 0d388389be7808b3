"""`crosstrain plan`: the command line."""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import tyro

from crosstrain import backends
from crosstrain.errors import ConfigError
from crosstrain.mesh import AXES, MeshSpec
from crosstrain.planning.chips import Topology
from crosstrain.planning.job import load_job
from crosstrain.planning.planner import plan as plan_step
from crosstrain.planning.sweep import candidates, sweep
from crosstrain.planning.tables import report_table, sweep_table
from crosstrain.terminal import plain_console


def plan(
    script: Path,
    /,
    topology: str,
    slices: int = 1,
    mesh: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    sweep_meshes: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="sweep")] = False,
    backend: str = "jax",
    shardings: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Says whether a training step fits on chips that are not there, and what it would cost.

    Args:
        script: a Python file that defines the step; see `help(crosstrain.planning.job)`.
        topology: chips and how they are joined, such as v5e:16x16, v5p:4x4x8, or cpu:8 for virtual devices.
        slices: how many of these there are, with a slower network between them; data crosses it.
        mesh: sizes of the mesh axes, such as fsdp=64,tensor=4; given several times, they are compared.
        sweep_meshes: tries the usual meshes, besides those of --mesh.
        backend: jax compiles the step; torch counts on tensors without memory and by formula.
        shardings: print where every parameter lies, too.

    Returns:
        The exit status: 0 when a mesh fits or there is no chip to hold it against, 1 when none does.
    """
    chips = Topology.parse(topology, slices)
    meshes = [parse_mesh(each) for each in mesh] or ([] if sweep_meshes else [MeshSpec()])
    backend = backends.name_of(backend)
    console = plain_console()
    one = functools.partial(plan_step, load_job(script, backend), chips, backend=backend)
    if not sweep_meshes and len(meshes) == 1:
        report = one(meshes[0])
        if shardings:
            console.print(report.measured.plan.table(), highlight=False)
        console.print(report_table(report), highlight=False)
        return 1 if report.fits is False else 0
    tried = list(dict.fromkeys([*meshes, *(candidates(chips.chips) if sweep_meshes else ())]))
    outcomes = sweep(tried, one)
    console.print(sweep_table(outcomes), highlight=False)
    best = outcomes[0].report
    if best is not None:
        console.print(report_table(best), highlight=False)
    return 0 if best is not None and best.fits is not False else 1


def parse_mesh(text: str) -> MeshSpec:
    """From `fsdp=64,tensor=4`; `data` takes the chips that are left.

    Raises:
        ConfigError: an unknown axis, or a size that is no number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = (each.strip() for each in part.partition("="))
        if axis not in AXES or axis in sizes or not size.removeprefix("-").isdecimal():
            raise ConfigError(
                f"mesh must be sizes of the axes {', '.join(AXES)}, such as fsdp=64,tensor=4, got mesh={text!r}."
            )
        sizes[axis] = int(size)
    return dataclasses.replace(MeshSpec(), **sizes)
