"""Models that were made on the meta device: their shapes first, their values when it is known who holds which part."""

import copy
from collections.abc import Collection, Iterator

import torch
from torch import nn

from crosstrain.errors import ConfigError
from crosstrain_torch import naming
from crosstrain_torch.host import copy_into
from crosstrain_torch.shards import local, part

_RESETS = ("reset_parameters", "_reset_parameters")


class Blueprint:
    """What a model on the meta device starts with, taken before it is split.

    Values are made one module at a time by its `reset_parameters`, in the order in which constructors make them, so
    they are those of a model that was made whole after the same seed. Paired models know their values by name.

    Raises:
        ConfigError: a module that holds tensors and cannot reset them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights = model.__dict__.pop("initial_weights", None)
        self._modules = [
            (path, copy.deepcopy(module))
            for path, module in _inside_out(model)
            if any(tensor.is_meta for tensor in self._own(module).values())
        ]
        for path, module in self._modules:
            if _reset_of(module) is None:
                raise ConfigError(
                    f"a model made by a function must be able to start on any device: {path or 'the model'} "
                    f"({type(module).__name__}) must have reset_parameters(), which sets "
                    f"{', '.join(self._own(module))}. Add it, or prepare a model that is made already."
                )

    @property
    def is_needed(self) -> bool:
        """Whether anything is on the meta device."""
        return bool(self._modules) or self._weights is not None

    @torch.no_grad()
    def fill(self, device: torch.device, absent: Collection[torch.Tensor] = ()) -> None:
        """Allocates this process's parts and gives them their values; what is `absent` stays on the meta device."""
        tied = naming.ties(self._model)

        def allocate(each: torch.Tensor) -> torch.Tensor:
            if each in absent:
                return each
            return torch.empty_like(each, device=device) if each.is_meta else each.to(device)

        self._model._apply(allocate)
        naming.tie(tied)
        if self._weights is not None:
            copy_into(naming.parameters(self._model), self._weights)
        filled: set[torch.Tensor] = set()
        for path, module in self._modules:
            module.to_empty(device=device)
            reset = _reset_of(module)
            assert reset is not None
            getattr(module, reset)()
            targets = self._own(self._model.get_submodule(path))
            for name, values in self._own(module).items():
                # A tied parameter keeps the values of its first place.
                if (target := targets[name]) not in filled:
                    local(target).copy_(part(values.detach().to(target.dtype), target))
                    filled.add(target)

    def _own(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """What a module holds itself and its weights do not tell."""
        buffers = dict(module.named_buffers(recurse=False))
        return buffers if self._weights is not None else dict(module.named_parameters(recurse=False)) | buffers


def _inside_out(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        yield from _inside_out(child, f"{path}.{name}" if path else name)
    yield path, module


def _reset_of(module: nn.Module) -> str | None:
    return next((name for name in _RESETS if hasattr(module, name)), None)
