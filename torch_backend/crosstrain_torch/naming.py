"""Canonical names of a torch model: torch's own, so there is little to do."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from crosstrain.optim import Role
from crosstrain.optim.roles import is_bias

_COUNTERS = ("num_batches_tracked",)
_NORMS = (_NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical name -> parameter; a tied parameter has one name, its first."""
    return dict(model.named_parameters())


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape; of a tensor that is split, that of the whole."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> buffer that belongs to the model's state, on every engine."""
    return {name: buffer for name, buffer in _persistent(model).items() if not name.endswith(_COUNTERS)}


def counters(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that only torch has."""
    return {name: buffer for name, buffer in _persistent(model).items() if name.endswith(_COUNTERS)}


def definition_order(model: nn.Module) -> list[str]:
    """Paths of all modules, each with the names of its own parameters behind it, parents before children.

    The order is that in which attributes were assigned.
    """
    return [
        name
        for path, module in model.named_modules()
        for name in (path, *(f"{path}.{own}" if path else own for own, _ in module.named_parameters(recurse=False)))
    ]


def _persistent(model: nn.Module) -> dict[str, Tensor]:
    persistent = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def roles(model: nn.Module) -> dict[str, Role]:
    """Canonical name -> what the parameter is, for weight decay and groups."""
    return {
        f"{prefix}.{name}" if prefix else name: _role(module, name)
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def _role(owner: nn.Module, name: str) -> Role:
    if isinstance(owner, _NORMS) or getattr(owner, "canonical_norm", False):
        return "norm"
    if is_bias(name):
        return "bias"
    if getattr(owner, "stacked_experts", False):
        return "experts"
    return "embedding" if isinstance(owner, nn.Embedding) else "weight"


_Place = tuple[nn.Module, str]


def ties(model: nn.Module) -> list[tuple[_Place, list[_Place]]]:
    """Where each parameter that stands in several places stands: its first, and the others."""
    places: dict[int, list[_Place]] = {}
    for module in model.modules():
        for name, param in module.named_parameters(recurse=False):
            places.setdefault(id(param), []).append((module, name))
    return [(first, others) for first, *others in places.values() if others]


def tie(tied: list[tuple[_Place, list[_Place]]]) -> None:
    """Puts the parameter of the first place into the others again, after something has made new parameters."""
    for (owner, name), others in tied:
        for other, theirs in others:
            other.register_parameter(theirs, owner.get_parameter(name))
