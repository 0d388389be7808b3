"""A pipeline over the devices of the `pipeline` axis: GPipe (Huang et al. 2019), one program for all stages.

Every device runs its own blocks on one micro-batch per tick and passes the result to the next; M micro-batches take
M + P - 1 ticks of P stages, of which each device idles (computes what nobody reads) for P - 1. The backward pass is
JAX's own, of the same loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec as P

from crosstrain.random import StepRandom
from crosstrain_jax.sharding import pipeline_stages

_AXIS = "pipeline"
Block = Callable[[Any, StepRandom | None, jax.Array, Any], jax.Array]
"""(parameters of one block, randomness, x, further arguments) -> x."""


def pipelined(block: Block, stack: Any, random: StepRandom | None, x: jax.Array, args: Any) -> jax.Array:
    """All blocks after each other, each on the stage that holds it.

    Under `jax.vmap` over micro-batches they follow each other through the stages; a call by itself is one of them.

    Args:
        block: one block.
        stack: a tree of arrays whose first dimension, that of the blocks, lies over `pipeline`.
        random: of the step, for dropout; its rows are those of `x`.
        x: (examples, ...); what a block returns has its shape and type.
        args: a tree of arrays that every block is given.
    """
    key, rows = (None, None) if random is None else (random.key, random.rows)

    @custom_vmap
    def run(stack: Any, key: Any, sides: Any, x: jax.Array) -> jax.Array:
        alone = jax.tree.map(lambda values: values[None], (sides, x))
        return _over_stages(block, stack, key, *alone)[0]

    @run.def_vmap
    def run_all(count: int, batched: Any, stack: Any, key: Any, sides: Any, x: jax.Array) -> tuple[jax.Array, bool]:
        def of_each(values: jax.Array, has: bool) -> jax.Array:
            return values if has else jnp.broadcast_to(values, (count, *values.shape))

        return _over_stages(block, stack, key, *jax.tree.map(of_each, (sides, x), tuple(batched[2:]))), True

    return run(stack, key, (rows, args), x)


def _over_stages(block: Block, stack: Any, key: Any, sides: Any, x: jax.Array) -> jax.Array:
    """(M, examples, ...) -> the same, with micro-batches shared out over the devices, who share the work after it."""
    count, stages = x.shape[0], pipeline_stages()
    padded = _pad(x, stages)
    run = jax.shard_map(
        partial(_stage, block, count, stages),
        in_specs=(P(_AXIS), P(), P(), P(_AXIS)),
        out_specs=P(_AXIS),
        axis_names={_AXIS},
    )
    return run(stack, key, sides, padded)[:count]


def _stage(block: Block, count: int, stages: int, stack: Any, key: Any, sides: Any, x: jax.Array) -> jax.Array:
    """What each device does; `sides` are those of all micro-batches, x its share of their first inputs."""
    here = jax.lax.axis_index(_AXIS)
    inputs = _to_first(x, stages)

    def tick(received: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.where(here == 0, inputs[jnp.minimum(time, count - 1)], received)
        rows, args = jax.tree.map(lambda values: values[jnp.clip(time - here, 0, count - 1)], sides)
        random = None if key is None else StepRandom(key, rows)
        x, _ = jax.lax.scan(lambda x, layer: (block(layer, random, x, args), None), x, stack)
        return jax.lax.ppermute(x, _AXIS, [(index, index + 1) for index in range(stages - 1)]), x

    # Nobody reads what comes of these ones, but a NaN in it would reach the gradients, times zero.
    start = jax.lax.pcast(jnp.ones(x.shape[1:], x.dtype), _AXIS, to="varying")
    _, outputs = jax.lax.scan(tick, start, jnp.arange(count + stages - 1))
    return _from_last(outputs[stages - 1 :], stages)


def _pad(x: jax.Array, stages: int) -> jax.Array:
    """Rows of ones after the others, to a multiple of the stages."""
    more = -len(x) % stages
    return jnp.concatenate([x, jnp.ones((more, *x.shape[1:]), x.dtype)]) if more else x


def _to_first(x: jax.Array, stages: int) -> jax.Array:
    """All devices' micro-batches on the first stage; ones on the others. Unlike a sum, it keeps every bit."""
    sent = jnp.concatenate([x, *[jnp.ones_like(x)] * (stages - 1)])
    return jax.lax.all_to_all(sent, _AXIS, 0, 0, tiled=True)


def _from_last(outputs: jax.Array, stages: int) -> jax.Array:
    """The last stage's outputs, shared out over all devices."""
    received = jax.lax.all_to_all(_pad(outputs, stages), _AXIS, 0, 0, tiled=True)
    return received[-(len(received) // stages) :]
