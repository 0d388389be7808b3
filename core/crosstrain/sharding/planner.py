"""From shapes, logical axes, rules and a mesh to a sharding plan."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crosstrain.errors import ConfigError
from crosstrain.models.spec import Blocks, ModelConfig
from crosstrain.sharding.plan import ParamPlan, ShardingPlan
from crosstrain.sharding.rules import PIPELINE_AXIS, ShardingRules

_FSDP = "fsdp"


def plan_model(
    model: Any, shapes: Mapping[str, tuple[int, ...]], mesh: Mapping[str, int], rules: ShardingRules
) -> ShardingPlan:
    """Plans the parameters of a native model; a paired one knows its logical axes and its blocks.

    Raises:
        ConfigError: see `plan_parameters` and `ModelConfig.require_mesh`.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        return plan_parameters(shapes, mesh, rules, logical_axes={})
    config.require_mesh(mesh)
    known = {name: param.axes for name, param in config.parameters().items()}
    return plan_parameters(shapes, mesh, rules, logical_axes=known, units=config.units(), blocks=config.blocks())


def plan_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    mesh: Mapping[str, int],
    rules: ShardingRules,
    *,
    logical_axes: Mapping[str, tuple[str | None, ...]],
    units: Mapping[str, int] | None = None,
    blocks: Blocks | None = None,
) -> ShardingPlan:
    """Plans every parameter: the rules where its axes have a meaning, then `fsdp` where it is not split over it yet.

    Blocks are cut into `pipeline` stages of as many neighbours each; what is no block's stands on every stage.

    A parameter whose logical axes do not lead to `fsdp` is split along its largest dimension that the axis divides,
    and stays whole when there is none. Every other mesh axis is obeyed or refused.

    Args:
        shapes: canonical name -> canonical shape.
        mesh: size of every mesh axis.
        rules: see there.
        logical_axes: what the model knows about its parameters.
        units: logical axis -> into how many parts it may be cut, where that is fewer than its elements (heads).
        blocks: what `pipeline` cuts into stages.

    Raises:
        ConfigError: axes of another number than dimensions, one mesh axis for two dimensions, a dimension that does
            not divide, a mesh axis that no parameter can use, or blocks that `pipeline` does not divide; names the
            parameter, the axis and what to do.
    """
    params = {
        name: _plan(name, shape, mesh, rules, rules.axes_of(name, logical_axes), units or {})
        for name, shape in shapes.items()
    }
    _require_use(params, mesh)
    if mesh[PIPELINE_AXIS] > 1:
        params = _with_stages(params, mesh[PIPELINE_AXIS], blocks)
    return ShardingPlan(mesh=dict(mesh), params=params)


def _plan(
    name: str,
    shape: tuple[int, ...],
    mesh: Mapping[str, int],
    rules: ShardingRules,
    logical: tuple[str | None, ...] | None,
    units: Mapping[str, int],
) -> ParamPlan:
    if logical is not None and len(logical) != len(shape):
        raise ConfigError(
            f"logical axes must name every dimension of {name}, got {logical} for shape {shape}. "
            "Give one name, or None, for each dimension in the canonical layout."
        )
    axes: list[tuple[str, ...]] = [()] * len(shape)
    small = math.prod(shape) < rules.min_size
    for index, meaning in enumerate(logical or ()):
        axis = rules.mesh_axis(meaning)
        if axis is None or mesh[axis] == 1 or (axis == _FSDP and small):
            continue
        if any(axis in taken for taken in axes):
            raise ConfigError(
                f"one mesh axis must split one dimension of {name}, got {axis!r} for two of its axes {logical}. "
                f"Map one of them to None: ShardingRules(rules={{{meaning!r}: None}})."
            )
        count = units.get(str(meaning), shape[index])
        if count % mesh[axis] == 0:
            axes[index] = (axis,)
        elif axis != _FSDP:
            raise ConfigError(
                f"{axis} must divide the {meaning} axis of {name}, got {axis}={mesh[axis]} for {count} "
                f"(shape {shape}). Use a size of {axis} that divides {count}, or keep it whole with "
                f"ShardingRules(rules={{{meaning!r}: None}})."
            )
    if mesh[_FSDP] > 1 and not any(_FSDP in taken for taken in axes) and not small:
        _split_largest(axes, shape, mesh)
    return ParamPlan(shape=shape, logical=logical, axes=tuple(axes))


def _split_largest(axes: list[tuple[str, ...]], shape: tuple[int, ...], mesh: Mapping[str, int]) -> None:
    """Adds `fsdp` to the largest dimension that no axis splits and that it divides, if there is one."""
    free = [index for index, size in enumerate(shape) if not axes[index] and size and size % mesh[_FSDP] == 0]
    if free:
        axes[max(free, key=lambda index: shape[index])] = (_FSDP,)


def _with_stages(params: Mapping[str, ParamPlan], stages: int, blocks: Blocks | None) -> dict[str, ParamPlan]:
    """The same plans with the stage that holds each block: neighbouring blocks, as many on every stage."""
    if blocks is None:
        raise ConfigError(
            f"pipeline={stages} must cut a sequence of equal blocks into stages, but the model names none. "
            "Use the paired gpt, whose config's blocks() does, or pipeline=1."
        )
    if blocks.count % stages:
        fitting = ", ".join(str(size) for size in range(1, blocks.count + 1) if blocks.count % size == 0)
        raise ConfigError(
            f"pipeline must divide the number of blocks, got pipeline={stages} for the {blocks.count} blocks of "
            f"{blocks.prefix}. Use pipeline={fitting.replace(', ', ' or ')}, or a multiple of {stages} blocks."
        )
    each = blocks.count // stages
    of = {name: blocks.index(name) for name in params}
    return {
        name: param if (index := of[name]) is None else replace(param, stage=index // each)
        for name, param in params.items()
    }


def _require_use(params: Mapping[str, ParamPlan], mesh: Mapping[str, int]) -> None:
    """Refuses mesh axes over which every device would hold and compute the same."""
    for axis in ("tensor", "expert"):
        if mesh[axis] > 1 and not any(param.dimension(axis) is not None for param in params.values()):
            names = "('experts', 'mlp', 'embed')" if axis == "expert" else "('mlp', 'embed')"
            raise ConfigError(
                f"{axis}={mesh[axis]} must split some parameter, but no parameter has a logical axis that a rule maps "
                f"to it. Name the axes with ShardingRules(logical_axes={{'*.weight': {names}}}), or use {axis}=1."
            )
