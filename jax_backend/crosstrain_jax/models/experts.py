"""Mixtures of experts: routing, the exchange of tokens between the devices that hold experts, and their SwiGLUs.

Arrays of a compiled program have fixed shapes, so tokens travel in places: an expert has `Experts.places` of them for
every row, and those that no token takes stay zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from crosstrain.models.experts import Experts
from crosstrain.models.gpt import GPTConfig
from crosstrain.sharding import BATCH_AXES, EXPERT_AXIS, SEQUENCE_AXIS
from crosstrain_jax.precision import wide_dtype
from crosstrain_jax.sharding import expert_parts, splits_examples

_ROWS = P(BATCH_AXES, SEQUENCE_AXIS)
_PLACES = P(EXPERT_AXIS, tuple(axis for axis in BATCH_AXES if axis != EXPERT_AXIS), SEQUENCE_AXIS)


class FeedForwards(nnx.Module):
    """SwiGLUs side by side, (experts, ...) each."""

    stacked_experts = True

    def __init__(self, number: int, config: GPTConfig) -> None:
        inner, outer = (config.hidden_dim, config.dim), (config.dim, config.hidden_dim)
        self.w1 = nnx.Param(jnp.zeros((number, *inner)))
        self.w3 = nnx.Param(jnp.zeros((number, *inner)))
        self.w2 = nnx.Param(jnp.zeros((number, *outer)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(experts, B, places, dim) -> (experts, B, places, dim)."""
        inner = partial(jnp.einsum, "ebpd,ehd->ebph")
        hidden = jax.nn.silu(inner(x, self.w1.get_value())) * inner(x, self.w3.get_value())
        return jnp.einsum("ebph,edh->ebpd", hidden, self.w2.get_value())


class Mixture(nnx.Module):
    """See `Experts`."""

    def __init__(self, experts: Experts, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        self.spec = experts
        self.router = nnx.Linear(config.dim, experts.number, use_bias=False, rngs=rngs)
        self.experts = FeedForwards(experts.number, config)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B, T, dim) -> (B, T, dim), and the balance of every row, (B,), in the wide type."""
        probabilities = jax.nn.softmax(self.router(x.astype(wide_dtype(x))), axis=-1)
        # Left to itself the compiler gathers what it chooses from.
        weights, chosen = _over_devices(partial(choose, experts=self.spec), _ROWS, (_ROWS, _ROWS))(probabilities)
        placed, places = _over_devices(partial(_send, self.spec), (_ROWS, _ROWS), (_PLACES, _ROWS))(x, chosen)
        y = _over_devices(_bring_back, (_PLACES, _ROWS, _ROWS), _ROWS)(self.experts(placed), places, weights)
        return y.astype(x.dtype), balance_of(probabilities, chosen, self.spec)


def choose(probabilities: jax.Array, experts: Experts) -> tuple[jax.Array, jax.Array]:
    """(..., number) -> weights and numbers of the active experts, (..., active), the likeliest first."""
    weights, chosen = jax.lax.top_k(probabilities, experts.active)
    return (weights if experts.active == 1 else weights / weights.sum(-1, keepdims=True)), chosen


def balance_of(probabilities: jax.Array, chosen: jax.Array, experts: Experts) -> jax.Array:
    """The balance of every row, (B,), from (B, T, number) and (B, T, active)."""
    shares = jax.nn.one_hot(chosen, experts.number, dtype=probabilities.dtype).mean((1, 2))
    return experts.number * (shares * probabilities.mean(1)).sum(-1)


def _places(chosen: jax.Array, experts: Experts, room: int) -> jax.Array:
    """(T, active) -> the place of every choice among number * room; one behind the last where it is dropped."""
    flat = chosen.reshape(-1)
    before = jnp.cumsum(jax.nn.one_hot(flat, experts.number, dtype=jnp.int32), axis=0)
    place = jnp.take_along_axis(before, flat[:, None], axis=1)[:, 0] - 1
    return jnp.where(place < room, flat * room + place, experts.number * room).reshape(chosen.shape)


def _send(experts: Experts, x: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of this device's rows: what its experts are given, (experts here, rows, places, dim), and where choices went."""
    room, width = experts.places(x.shape[1]), x.shape[-1]

    def one(x: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        places = _places(chosen, experts, room)
        copies = jnp.repeat(x, experts.active, axis=0)
        empty = jnp.zeros_like(x, shape=(experts.number * room, width))
        return empty.at[places.reshape(-1)].add(copies, mode="drop"), places

    placed, places = jax.vmap(one)(x, chosen)
    placed = placed.reshape(len(x), experts.number, room, width).swapaxes(0, 1)
    if expert_parts() > 1:
        placed = jax.lax.all_to_all(placed, EXPERT_AXIS, split_axis=0, concat_axis=1, tiled=True)
    return placed, places


def _bring_back(y: jax.Array, places: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum of what experts made of each token of this device's rows, in the type of the weights."""
    if expert_parts() > 1:
        y = jax.lax.all_to_all(y, EXPERT_AXIS, split_axis=1, concat_axis=0, tiled=True)
    rows = y.swapaxes(0, 1).reshape(y.shape[1], -1, y.shape[-1])
    found = jax.vmap(lambda row, places: row.at[places].get(mode="fill", fill_value=0))(rows, places)
    return (found.astype(weights.dtype) * weights[..., None]).sum(-2)


def _over_devices(function: Callable[..., Any], given: Any, returned: Any) -> Callable[..., Any]:
    """Runs a function on every device's own rows, and parts of them; `tensor` is the compiler's."""
    if not splits_examples():
        return function
    axes = {*BATCH_AXES, SEQUENCE_AXIS}
    return jax.shard_map(function, in_specs=given, out_specs=returned, axis_names=axes)
