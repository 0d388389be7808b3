"""Rematerialisation: the blocks of a model keep their inputs only, and the backward pass computes the rest again."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import jax
from flax import nnx

from crosstrain.step import Remat, nothing_to_remat

_MARK = "crosstrain_remat"
"""An attribute of chosen blocks, and so of what a loop over blocks makes of them."""

_POLICIES: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@contextlib.contextmanager
def rematerialised(model: nnx.Module, remat: Remat) -> Iterator[None]:
    """While a forward pass is traced: the model's blocks run under `jax.checkpoint`.

    Raises:
        ConfigError: the model has no such blocks.
    """
    if remat == "none":
        yield
        return
    chosen = blocks(model)
    if not chosen:
        raise nothing_to_remat(model, remat, "nnx.List")
    for block in chosen:
        setattr(block, _MARK, True)
    with contextlib.ExitStack() as stack:
        for kind in {type(block) for block in chosen}:
            stack.enter_context(patch.object(kind, "__call__", _checkpointed(kind.__call__, remat)))
        yield


def blocks(model: nnx.Module) -> list[nnx.Module]:
    """The outermost entries of every `nnx.List`, but for those with variables that are no parameters.

    Such variables (running statistics, counters of random numbers) would change twice.
    """
    nodes = dict(nnx.iter_graph(model))
    found: dict[tuple[Any, ...], nnx.Module] = {}
    for path in sorted(nodes, key=len):
        node, inside = nodes[path], any(path[: len(other)] == other for other in found)
        if isinstance(node, nnx.Module) and path and isinstance(nodes.get(path[:-1]), nnx.List) and not inside:
            found[path] = node
    return [block for block in found.values() if not nnx.to_flat_state(nnx.state(block, nnx.Not(nnx.Param)))]


def _checkpointed(call: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    def checkpointed(self: nnx.Module, *args: Any, **options: Any) -> Any:
        if not hasattr(self, _MARK):
            return call(self, *args, **options)
        # Parameters and arguments come in as a closure, which jax.checkpoint differentiates as it does arguments;
        # options that are no arrays stay what they are.
        return jax.checkpoint(lambda: call(self, *args, **options), policy=_POLICIES[remat])()

    return checkpointed
