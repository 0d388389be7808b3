"""Training loops in plain JAX. Each function returns `block(steps) -> loss`, which waits for its last step."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rivals import models_jax
from rivals.workloads import DECAY, MOMENTUM, PEAK, RATE, TOTAL, WORKLOADS

Block = Callable[[int], float]
SCANNED = 20


def optimizer(name: str) -> optax.GradientTransformation:
    if name == "resnet9":
        return optax.sgd(optax.cosine_onecycle_schedule(TOTAL, PEAK), MOMENTUM, nesterov=True)
    return optax.adamw(RATE, weight_decay=DECAY)


def loss_of(model: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def _flat(name: str) -> tuple[Any, Any]:
    """A step over flat tuples of arrays, and what it starts with."""
    graph, params, rest = nnx.split(models_jax.make(name), nnx.Param, ...)
    params, tree = jax.tree.flatten(params)
    rest, rest_tree = jax.tree.flatten(rest)
    change = optimizer(name)
    moments, moments_tree = jax.tree.flatten(change.init(params))

    def step(carry: Any, batch: Any) -> Any:
        params, rest, moments = carry

        def objective(params: Any) -> Any:
            model = nnx.merge(graph, jax.tree.unflatten(tree, params), jax.tree.unflatten(rest_tree, rest))
            return loss_of(model, *batch), jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))

        (loss, rest), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = change.update(grads, jax.tree.unflatten(moments_tree, moments), params)
        return (optax.apply_updates(params, updates), rest, jax.tree.leaves(state)), loss

    return step, (params, rest, moments)


def raw(name: str) -> Block:
    """The fastest loop that plain JAX allows: one compiled call a step."""
    step, carry = _flat(name)
    compiled = jax.jit(step, donate_argnums=0)
    batches = itertools.cycle([jax.device_put(batch) for batch in WORKLOADS[name].batches()])

    def block(steps: int) -> float:
        nonlocal carry
        for batch in itertools.islice(batches, steps):
            carry, loss = compiled(carry, batch)
        return float(loss)

    return block


def raw_scan(name: str) -> Block:
    """Several steps in one call, over batches that were stacked beforehand."""
    step, carry = _flat(name)
    compiled = jax.jit(partial(jax.lax.scan, step), donate_argnums=0)
    batches = list(WORKLOADS[name].batches())[:SCANNED]
    stacked = tuple(jnp.stack(each) for each in zip(*batches, strict=True))

    def block(steps: int) -> float:
        nonlocal carry
        for _ in range(steps // SCANNED):
            carry, losses = compiled(carry, stacked)
        return float(losses[-1])

    return block


def nnx_loop(name: str) -> Block:
    """As the first page of flax's documentation does it."""
    model = models_jax.make(name)
    state = nnx.Optimizer(model, optimizer(name), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
        state.update(model, grads)
        return loss

    batches = itertools.cycle([jax.device_put(batch) for batch in WORKLOADS[name].batches()])

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):
            loss = step(model, state, *batch)
        return float(loss)

    return block
