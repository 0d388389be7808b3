"""A user's own model in flax, native layers under names of its own, and what a device holds of a state."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(16, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.up = nnx.Linear(16, 24, rngs=rngs)
        self.down = nnx.Linear(24, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(partial(jax.nn.gelu, approximate=False)(self.up(self.norm(x))))


class Tagger(nnx.Module):
    """Tokens (B, T) -> logits (B, T, 32). No axis of a mesh divides `scale`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(32, 16, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(16, 32, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale.get_value()


def make() -> nnx.Module:
    return Tagger(nnx.Rngs(0))


def held(state: Any) -> dict[str, tuple[int, ...]]:
    """`params/NAME`, `averages/NAME` and `moments/SLOT/NAME` -> the canonical shape that each device holds in a step.

    Between steps the devices of a pipeline share every block.
    """
    names = state.layout.params
    sections = {"params": (names, state.params), "averages": (names, state.averages)}
    sections |= {f"moments/{slot}": (kept.names, kept.values) for slot, kept in state._slots().items()}
    return {
        f"{section}/{leaf.name}": _local(leaf, array)
        for section, (leaves, arrays) in sections.items()
        for leaf, array in zip(leaves, arrays, strict=True)
    }


def _local(leaf: Any, array: jax.Array) -> tuple[int, ...]:
    (shape,) = {shard.data.shape for shard in array.addressable_shards}
    shape = tuple(
        size * (array.sharding.mesh.shape["pipeline"] if "pipeline" in (axes or ()) else 1)
        for size, axes in itertools.zip_longest(shape, array.sharding.spec, fillvalue=())
    )
    return dataclasses.replace(leaf, shape=shape).canonical_shape
