"""Tensor parallelism from a sharding plan: which layers are split by columns and which by rows, with torch's styles."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from crosstrain.errors import ConfigError
from crosstrain.sharding import ParamPlan, ShardingPlan
from crosstrain_torch import naming

_AXIS = "tensor"
# Key and value heads are read by nothing but the attention of the query heads.
_SAME = {"kv_heads": "heads"}
Kind = Literal["columns", "rows", "embedding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    path: str
    kind: Kind
    dimension: int
    meaning: str | None


def styles(model: nn.Module, plan: ShardingPlan) -> dict[str, ParallelStyle]:
    """Path of a layer -> how it is split over `tensor`.

    A linear layer whose outputs are split (columns) hands its part on where the next one that is split by rows, in
    the model's order, reads features of the same meaning; otherwise its output is gathered. What stands between two
    such layers sees this process's features only, and has to treat each by itself.

    Raises:
        ConfigError: a layer that cannot be split so; names the parameter.
    """
    layers = list(_layers(model, plan))
    handed_on = _handed_on(layers)
    return {layer.path: _style(layer, handed_on) for layer in layers}


def split(model: nn.Module, plan: ShardingPlan, mesh: DeviceMesh, absent: Collection[nn.Parameter] = ()) -> None:
    """Makes the layers that the plan splits tensor-parallel, in place; tied parameters stay one.

    Layers of parameters that are `absent` are left alone.
    """
    tied = naming.ties(model)
    here = {
        path: style
        for path, style in styles(model, plan).items()
        if not any(param in absent for param in model.get_submodule(path).parameters())
    }
    parallelize_module(model, mesh, here, src_data_rank=None)
    naming.tie(tied)


def _layers(model: nn.Module, plan: ShardingPlan) -> Iterator[_Layer]:
    names = {id(param): name for name, param in naming.parameters(model).items()}
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    inside = {id(child) for module in attentions for child in module.children()}
    for path, module in model.named_modules():
        own = {name: names[id(param)] for name, param in module.named_parameters(recurse=False)}
        cut = {name: plan.params[full] for name, full in own.items() if plan.params[full].dimension(_AXIS) is not None}
        if not cut:
            continue
        if not isinstance(module, nn.Linear | nn.Embedding) or id(module) in inside:
            first = own[next(iter(cut))]
            raise ConfigError(
                f"tensor splits nn.Linear and nn.Embedding on the torch engine, got {first} of "
                f"{type(module).__name__}. Keep it whole: "
                f"ShardingRules(logical_axes={{{first!r}: {(None,) * len(plan.params[first].shape)}}})."
            )
        yield _layer(path, module, own, cut)


def _layer(path: str, module: nn.Module, own: dict[str, str], cut: dict[str, ParamPlan]) -> _Layer:
    weight, bias = cut.get("weight"), cut.get("bias")
    dimension = None if weight is None else weight.dimension(_AXIS)
    columns = isinstance(module, nn.Linear) and dimension == 0
    if "bias" in own and columns != (bias is not None):
        if bias is None:
            fix = f"{own['bias']!r}: ({_meaning(weight, 0)!r},)"
            raise ConfigError(
                f"the bias of a layer split by columns must be split too, got {own['bias']} whole beside "
                f"{own['weight']}. Name its axis: ShardingRules(logical_axes={{{fix}}})."
            )
        raise ConfigError(
            f"the bias must be whole where the weight is not split by columns, got {own['bias']} split over tensor. "
            f"Name its axis None: ShardingRules(logical_axes={{{own['bias']!r}: (None,)}})."
        )
    assert dimension is not None
    kind: Kind = "embedding" if isinstance(module, nn.Embedding) else "columns" if columns else "rows"
    return _Layer(path=path, kind=kind, dimension=dimension, meaning=_meaning(weight, dimension))


def _meaning(param: ParamPlan | None, dimension: int) -> str | None:
    meaning = None if param is None or param.logical is None else param.logical[dimension]
    return _SAME.get(str(meaning), meaning)


def _handed_on(layers: list[_Layer]) -> set[str]:
    """Layers by columns whose output stays split, and those by rows that read it."""
    found: set[str] = set()
    waiting: list[_Layer] = []
    for layer in layers:
        if layer.kind == "columns":
            waiting.append(layer)
        elif layer.kind == "rows":
            pairs = {each.path for each in waiting if each.meaning == layer.meaning}
            found |= pairs | ({layer.path} if pairs else set())
            waiting = []
    return found


def _style(layer: _Layer, handed_on: set[str]) -> ParallelStyle:
    if layer.kind == "embedding":
        if layer.dimension == 0:
            return RowwiseParallel(input_layouts=Replicate())
        return ColwiseParallel(output_layouts=Replicate())
    if layer.kind == "columns":
        return ColwiseParallel(output_layouts=Shard(-1) if layer.path in handed_on else Replicate())
    return RowwiseParallel(input_layouts=Shard(-1) if layer.path in handed_on else Replicate())
