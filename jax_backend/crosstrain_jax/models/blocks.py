"""`BlockList`: equal blocks of a model, run one after the other, as one compiled loop, or as the stages of a pipeline.

In a loop and in a pipeline the blocks' parameters are one array each, (blocks, ...): stacked in the step, so that a
state, its checkpoints and its optimizer know every block by its own names. No twin: torch runs modules one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crosstrain.random import StepRandom
from crosstrain_jax.models.layers import Dropout
from crosstrain_jax.pipeline import pipelined
from crosstrain_jax.sharding import Shardings, pipeline_stages


class Stack(NamedTuple):
    """Blocks as arrays: their parameters, and the hashes of their dropout layers' names, (blocks, layers), uint32."""

    params: tuple[jax.Array, ...]
    dropouts: jax.Array


@dataclass(frozen=True)
class _Renamed(StepRandom):
    """Randomness for a dropout layer whose own name is that of the first block: `layer` is the hash of the right one.

    A name that is an array has no place in a module, where flax takes attributes that were numbers as constants.
    """

    layer: Any = 0

    def bits(self, layer: Any, columns: Any) -> Any:
        return super().bits(self.layer, columns)


class Places(NamedTuple):
    """Where a list's parameters stand among all of a model: those of its first block, and all of them."""

    first: tuple[int, ...]
    all: tuple[int, ...]
    scan: bool


class BlockList(nnx.List):
    """Blocks of one class and shapes, without variables but parameters: `block(x, *args)` gives the next one's x.

    They run one by one unless a step binds them, as it does where `scan` is set or the mesh has a `pipeline` axis. In
    a pipeline x and all `args` are arrays with a row for each example, or None.
    """

    def __init__(self, blocks: Iterable[nnx.Module], *, scan: bool = False) -> None:
        super().__init__(blocks)
        self.scan = scan
        self.bound: tuple[Shardings, Places] | None = None
        self.random: StepRandom | None = None

    def run(self, x: jax.Array, *args: Any) -> jax.Array:
        """What the last block returns. No `__call__`: to a probe the list is no layer."""
        if self.bound is None:
            for block in self:
                x = block(x, *args)
            return x
        shardings, places = self.bound
        if pipeline_stages() > 1:
            return pipelined(self._block, self._stack(shardings, places), self.random, x, args)

        def one(x: jax.Array, layer: Stack) -> tuple[jax.Array, None]:
            params = tuple(map(shardings.gather_one, places.first, layer.params))
            return self._block(layer._replace(params=params), self.random, x, args), None

        return jax.lax.scan(one, x, self._stack(shardings, places))[0]

    def _stack(self, shardings: Shardings, places: Places) -> Stack:
        blocks = [jax.tree.leaves(nnx.split(block)[1]) for block in self]
        params = map(shardings.stack, zip(*blocks, strict=True), places.first)
        names = np.array([[dropout.layer for dropout in _dropouts(block)] for block in self], np.uint32)
        return Stack(tuple(params), jnp.asarray(names))

    def _block(self, layer: Stack, random: StepRandom | None, x: jax.Array, args: Any) -> jax.Array:
        """One block with these parameters and dropout layers; the first of the list gives the form of all."""
        graph, state = nnx.split(self[0])
        block = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), layer.params))
        for index, dropout in enumerate(_dropouts(block)):
            dropout.random = None if random is None else _Renamed(random.key, random.rows, layer=layer.dropouts[index])
        return block(x, *args)


def places_of(model: nnx.Module, names: Sequence[str]) -> dict[str, Places]:
    """The block lists of a model by their names; `names` are those of its parameters, in order."""
    lists = {_name(path): module for path, module in nnx.iter_modules(model) if isinstance(module, BlockList)}
    return {
        prefix: Places(_starting(names, f"{prefix}.0."), _starting(names, f"{prefix}."), module.scan)
        for prefix, module in lists.items()
    }


def bind(model: nnx.Module, shardings: Shardings, lists: Mapping[str, Places]) -> None:
    """Has these block lists of a model run stacked."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BlockList) and _name(path) in lists:
            module.bound = (shardings, lists[_name(path)])


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def _starting(names: Sequence[str], prefix: str) -> tuple[int, ...]:
    return tuple(place for place, name in enumerate(names) if name.startswith(prefix))


def _dropouts(block: nnx.Module) -> list[Dropout]:
    return [module for _, module in nnx.iter_modules(block) if isinstance(module, Dropout)]
