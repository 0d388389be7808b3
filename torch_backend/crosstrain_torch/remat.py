"""Rematerialisation: the blocks of a model keep their inputs only, and the backward pass computes the rest again."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from crosstrain.step import Remat, nothing_to_remat
from crosstrain_torch.models.layers import Dropout

_DOTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""Products with weights; those of attention are of batches (`bmm` and kernels of their own)."""


def rematerialised(model: nn.Module, remat: Remat) -> AbstractContextManager[None]:
    """During a forward pass: the model's blocks run under `torch.utils.checkpoint`.

    Raises:
        ConfigError: the model has no such blocks.
    """
    return contextlib.nullcontext() if remat == "none" else _with_checkpoints(model, remat)


@contextlib.contextmanager
def _with_checkpoints(model: nn.Module, remat: Remat) -> Iterator[None]:
    chosen = list(blocks(model))
    if not chosen:
        raise nothing_to_remat(model, remat, "nn.ModuleList")
    own = {block: vars(block).get("forward") for block in chosen}
    for block in chosen:
        # Inside the hooks of FSDP and tensor parallelism, which belong to calls of the module.
        block.forward = functools.partial(_checkpointed, block, block.forward, remat)
    try:
        yield
    finally:
        for block, forward in own.items():
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost entries of every `nn.ModuleList`, but for those with buffers.

    Buffers (running statistics) would change twice.
    """
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from (entry for entry in child if next(entry.buffers(), None) is None)
        else:
            yield from blocks(child)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], remat: Remat, *args: Any, **options: Any) -> Any:
    contexts = functools.partial(_contexts, remat, [*_substituted(block), *_random(block)])
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **options)


Entries = list[tuple[dict[str, Any], str, Any]]
"""Dicts of modules, and what is under a name there in this call."""


def _substituted(block: nn.Module) -> Entries:
    """Tensors that stand in for parameters in this call only: those in the compute type."""
    return [
        (module._parameters, name, tensor)
        for module in block.modules()
        for name, tensor in module._parameters.items()
        if tensor is not None and not isinstance(tensor, nn.Parameter)
    ]


def _random(block: nn.Module) -> Entries:
    """The randomness of dropout: in a pipeline other micro-batches come before the backward pass of this one."""
    return [(module.__dict__, "random", module.random) for module in block.modules() if isinstance(module, Dropout)]


def _contexts(remat: Remat, entries: Entries) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For the forward pass, and for the one that is repeated."""
    first: AbstractContextManager[Any] = contextlib.nullcontext()
    again: AbstractContextManager[Any] = contextlib.nullcontext()
    if remat == "dots":
        first, again = create_selective_checkpoint_contexts(_DOTS)
    return first, _with(entries, again)


@contextlib.contextmanager
def _with(entries: Entries, inner: AbstractContextManager[Any]) -> Iterator[None]:
    kept = [(table, name, table[name]) for table, name, _ in entries]
    try:
        for table, name, value in entries:
            table[name] = value
        with inner:
            yield
    finally:
        for table, name, value in kept:
            table[name] = value
