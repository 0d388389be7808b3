"""What a step sends by each kind of parallelism, from the sharding plan alone: for engines that compile no program.

Shoeybi et al. 2019 (Megatron) for tensor parallelism, Rajbhandari et al. 2020 (ZeRO-3) for sharded parameters,
Lepikhin et al. 2020 (GShard) for experts, Huang et al. 2019 (GPipe) for stages.
"""

import math
from collections.abc import Mapping

from crosstrain.planning.traffic import Collective
from crosstrain.sharding import PIPELINE_AXIS, ParamPlan, ShardingPlan


def expected(
    plan: ShardingPlan,
    *,
    tokens: int,
    compute_bytes: float,
    gradient_bytes: float,
    micro_batches: int = 1,
    places: float = 0,
    one_program: bool = False,
) -> tuple[Collective, ...]:
    """Collectives of one step.

    Args:
        plan: where parameters lie.
        tokens: rows of the matrix products on one device and micro-batch: examples, or examples times length.
        compute_bytes: of an element of activations and gathered weights.
        gradient_bytes: of an element of a gradient while it is added up.
        micro_batches: forward passes in the step; gradients are added up once.
        one_program: whether the stages of a pipeline are one program, as on JAX, and not one each.
        places: those that tokens of one device and micro-batch take at experts, or that are kept for them.
    """
    return (
        *_data(plan, gradient_bytes),
        *_fsdp(plan, compute_bytes, gradient_bytes, micro_batches),
        *_tensor(plan, tokens, compute_bytes, micro_batches),
        *_expert(plan, places, compute_bytes, micro_batches),
        *_pipeline(plan, tokens, compute_bytes, micro_batches, one_program),
    )


def _data(plan: ShardingPlan, gradient_bytes: float) -> tuple[Collective, ...]:
    """An all-reduce of every gradient, of the part that a device holds."""
    given: dict[tuple[str, ...], float] = {}
    for param in plan.of_stage(0).values():
        shared = ("data", PIPELINE_AXIS) if param.stage is None else ("data",)
        axes = tuple(
            axis
            for axis in ("data", "fsdp", "expert", PIPELINE_AXIS)
            if plan.mesh[axis] > 1 and (axis in shared or (axis in ("fsdp", "expert") and not _splits(param, axis)))
        )
        given[axes] = given.get(axes, 0.0) + math.prod(param.local_shape(plan.mesh)) * gradient_bytes
    return tuple(_collective("all-reduce", axes, plan.mesh, 1, size) for axes, size in given.items() if axes)


def _fsdp(
    plan: ShardingPlan, compute_bytes: float, gradient_bytes: float, micro_batches: int
) -> tuple[Collective, ...]:
    """Weights are gathered for the forward and again for the backward pass; gradients are scattered as they add up."""
    n = plan.mesh["fsdp"]
    local = [math.prod(p.local_shape(plan.mesh)) for p in plan.of_stage(0).values() if _splits(p, "fsdp")]
    if n == 1 or not local:
        return ()
    times = 2 * micro_batches
    return (
        _collective("all-gather", ("fsdp",), plan.mesh, times * len(local), times * sum(local) * compute_bytes),
        _collective("reduce-scatter", ("fsdp",), plan.mesh, len(local), n * sum(local) * gradient_bytes),
    )


def _tensor(plan: ShardingPlan, tokens: int, compute_bytes: float, micro_batches: int) -> tuple[Collective, ...]:
    """A sum of outputs where a matrix is split by its inputs, and of input gradients where it is split by outputs."""
    sums = [
        param.shape[1 - dimension]
        for param in plan.of_stage(0).values()
        if len(param.shape) == 2 and (dimension := param.dimension("tensor")) is not None
    ]
    if plan.mesh["tensor"] == 1 or not sums:
        return ()
    given = micro_batches * tokens * sum(sums) * compute_bytes
    return (_collective("all-reduce", ("tensor",), plan.mesh, micro_batches * len(sums), given),)


def _expert(plan: ShardingPlan, places: float, compute_bytes: float, micro_batches: int) -> tuple[Collective, ...]:
    """Tokens go to their experts and back, and their gradients likewise: two for each of a SwiGLU's inner matrices."""
    widths = [
        p.shape[-1] for p in plan.params.values() if _splits(p, "expert") and (p.logical or ())[-1:] == ("embed",)
    ]
    if not widths:
        return ()
    times = 2 * micro_batches
    given = times * places * sum(widths) * compute_bytes
    return (_collective("all-to-all", ("expert",), plan.mesh, times * len(widths), given),)


def _pipeline(
    plan: ShardingPlan, tokens: int, compute_bytes: float, micro_batches: int, one_program: bool
) -> tuple[Collective, ...]:
    """A stage in the middle hands every micro-batch on, and its gradients back.

    Of one program every device does so in each of its ticks, of which there are stages - 1 more; between steps it has
    a part of each block, which goes to the block's stage and comes back as a gradient; and micro-batches, which the
    devices share, go to the first stage and come from the last, with their gradients.
    """
    n = plan.mesh[PIPELINE_AXIS]
    widths = [p.shape[p.logical.index("embed")] for p in plan.params.values() if p.logical and "embed" in p.logical]
    if n == 1 or not widths:
        return ()
    stream = tokens * widths[0] * compute_bytes
    times = 2 * (micro_batches + n - 1 if one_program else micro_batches)
    handed_on = _collective("collective-permute", (PIPELINE_AXIS,), plan.mesh, times, times * stream)
    if not one_program:
        return (handed_on,)
    parts = [math.prod(p.local_shape(plan.mesh)) / n for p in plan.params.values() if p.stage is not None]
    given = 2 * sum(parts) * compute_bytes + 4 * micro_batches * stream
    return handed_on, _collective("all-to-all", (PIPELINE_AXIS,), plan.mesh, 2 * len(parts) // n + 4, given)


def _splits(param: ParamPlan, axis: str) -> bool:
    return param.dimension(axis) is not None


def _collective(kind: str, axes: tuple[str, ...], mesh: Mapping[str, int], count: int, given: float) -> Collective:
    size = math.prod(mesh[axis] for axis in axes)
    return Collective(kind=kind, axes=axes, group_size=size, count=count, operand_bytes=given)  # type: ignore[arg-type]
