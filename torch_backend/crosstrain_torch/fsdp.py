"""Fully sharded parameters (FSDP2) from a sharding plan: block by block, then what is left."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager

from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.modules.batchnorm import _BatchNorm

from crosstrain.precision import Precision
from crosstrain.sharding import ShardingPlan
from crosstrain_torch import naming
from crosstrain_torch.precision import DTYPES, casts
from crosstrain_torch.reduction import reduce_dtype
from crosstrain_torch.sharding import Mesh

_AXIS = "fsdp"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def shard(
    model: nn.Module, plan: ShardingPlan, mesh: Mesh, precision: Precision, elsewhere: Collection[str] = ()
) -> list[str]:
    """Shards a model in place, and returns the names of the parameters that FSDP gathers and reduces.

    Parameters that the plan keeps whole, or that are `elsewhere`, are left alone. Gradients are sums over the
    processes, not means.
    """
    params = naming.parameters(model)
    split = {name: None if name in elsewhere else param.dimension(_AXIS) for name, param in plan.params.items()}
    dimensions = {params[name]: dimension for name, dimension in split.items()}
    whole = {param for param, dimension in dimensions.items() if dimension is None}
    native = mesh.along("data", _AXIS)
    if native is None or mesh.sizes[_AXIS] == 1 or len(whole) == len(params):
        return []
    for unit in _units(model, whole, precision):
        fully_shard(
            unit,
            mesh=native,
            shard_placement_fn=lambda param: Shard(dimensions[param] or 0),
            mp_policy=_policy(unit, precision),
            ignored_params=whole,
        )
    for module in fsdp_modules(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return [name for name, dimension in split.items() if dimension is not None]


def fsdp_modules(model: nn.Module) -> list[FSDPModule]:
    """The units of a model."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def set_sync(model: nn.Module, sync: bool) -> None:
    """Whether the next backward pass reduces the gradients, or adds to what each process has."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sync)


def gathered_no_longer(models: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """Frees what the block has gathered, also by a pass that failed or had no backward pass.

    FSDP would use it again in the next forward pass, and not see what has been written into the parameters since.
    """
    roots = [model for model in models if isinstance(model, FSDPModule)]
    return _freed(roots) if roots else contextlib.nullcontext()


@contextlib.contextmanager
def _freed(roots: Sequence[FSDPModule]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for root in roots:
            # FSDP makes what it resets in the first forward pass; a loss function may fail before that.
            if root._get_fsdp_state()._is_root:
                root.reset_iter_state()
            root.zero_grad(set_to_none=True)
            _drop_gathered_gradients(root)
        raise
    finally:
        for root in roots:
            for module in fsdp_modules(root):
                module.reshard()


def _drop_gathered_gradients(root: FSDPModule) -> None:
    """Takes off what the micro-batches before the last one have added up.

    torch keeps it in what it gathers into, 2.13 in a place of its own as soon as that is in the reduced type.
    """
    for module in fsdp_modules(root):
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for param in group.fsdp_params:
                if "unsharded_accumulated_grad" in vars(param):
                    param.unsharded_accumulated_grad = None
                if hasattr(param, "_unsharded_param"):
                    param.unsharded_param.grad = None


def _units(model: nn.Module, whole: set[nn.Parameter], precision: Precision) -> list[nn.Module]:
    """What is gathered as one, the inner ones first: the entries of every ModuleList, and the model."""
    blocks = {id(child) for module in model.modules() if isinstance(module, nn.ModuleList) for child in module}
    uses = _count_uses(model)

    def is_unit(module: nn.Module) -> bool:
        own = _count_uses(module)
        if isinstance(module, _CONTAINERS) or not own.keys() - whole:
            return False
        alone = all(uses[param] == count for param, count in own.items())
        separate = id(module) in blocks or (casts(precision) and isinstance(module, _BatchNorm))
        return alone and separate

    inner = [module for module in model.modules() if module is not model and is_unit(module)]
    return [*reversed(inner), model]


def _count_uses(module: nn.Module) -> dict[nn.Parameter, int]:
    uses: dict[nn.Parameter, int] = {}
    for _, param in module.named_parameters(remove_duplicate=False):
        uses[param] = uses.get(param, 0) + 1
    return uses


def _policy(unit: nn.Module, precision: Precision) -> MixedPrecisionPolicy:
    """torch's own BatchNorm keeps the type of its parameters; gradients are added in that of the weights, or
    in `reduce_dtype`."""
    narrow = reduce_dtype(precision)
    if not casts(precision) or isinstance(unit, _BatchNorm):
        return MixedPrecisionPolicy(reduce_dtype=narrow, cast_forward_inputs=False)
    return MixedPrecisionPolicy(
        param_dtype=DTYPES[precision.compute_dtype],
        reduce_dtype=narrow or DTYPES[precision.param_dtype],
        cast_forward_inputs=False,
    )
