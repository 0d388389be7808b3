"""Adafactor; see `crosstrain.optim.Adafactor`. optax has another definition: it factors the two largest dimensions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosstrain.optim import Adafactor, Hyper
from crosstrain_jax.naming import Leaf
from crosstrain_jax.optim.base import Leaves, Optimizer, Some, Transformation, decay, start_count, zeros


class AdafactorState(NamedTuple):
    """Row and column moments, in the canonical layout, of what has two and more dimensions; a moment of the rest."""

    count: jax.Array
    row_moment: Some
    column_moment: Some
    second_moment: Some


def adafactor(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With decoupled decay."""
    return optax.chain(_scale_by_factors(optimizer, hyper.rate), decay(optimizer))


def _scale_by_factors(optimizer: Optimizer, rate: Any) -> Transformation:
    spec, leaves = optimizer.spec, optimizer.leaves
    assert isinstance(spec, Adafactor)
    shapes = [leaf.canonical_shape for leaf in leaves]

    def init(params: Leaves) -> AdafactorState:
        factored = [len(shape) > 1 for shape in shapes]
        rows = [jnp.zeros((*s[:-1], 1), p.dtype) for s, p in zip(shapes, params, strict=True)]
        columns = [jnp.zeros((*s[:-2], 1, *s[-1:]), p.dtype) for s, p in zip(shapes, params, strict=True)]
        return AdafactorState(
            start_count(), zeros(rows, factored), zeros(columns, factored), zeros(params, [not yes for yes in factored])
        )

    def update(grads: Leaves, state: AdafactorState, params: Leaves | None = None) -> tuple[Leaves, AdafactorState]:
        assert params is not None
        count = state.count + 1
        directions, moments = [], []
        kept = zip(state.row_moment, state.column_moment, state.second_moment, strict=True)
        for leaf, g, p, each, old in zip(leaves, grads, params, optimizer.settings, kept, strict=True):
            t = count.astype(jnp.promote_types(p.dtype, jnp.float32))
            estimate, new = _second_moment(leaf, g, old, t**spec.beta2_decay, spec.eps[0])
            unit = g / jnp.sqrt(jnp.maximum(estimate, spec.eps[0] ** 2))
            clipped = unit / jnp.maximum(1.0, _rms(unit) / spec.clip_threshold)
            # min(lr, 1 / sqrt(t)) without the lr that the step multiplies by.
            relative = jnp.minimum(1.0, 1.0 / (rate * each.rate_scale * jnp.sqrt(t)))
            directions.append(jnp.maximum(spec.eps[1], _rms(p)) * relative * clipped)
            moments.append(new)
        rows, columns, wholes = (tuple(new[index] for new in moments) for index in range(3))
        return tuple(directions), AdafactorState(count, rows, columns, wholes)

    return Transformation(init, update)


def _second_moment(leaf: Leaf, g: jax.Array, old: Some, share: jax.Array, eps: float) -> tuple[jax.Array, Some]:
    """Mixes in g^2: the estimate, in the layout of `g`, and the new moments (row, column, whole)."""
    row, column, whole = old
    squares = jnp.square(g)
    if whole is not None:
        whole = (1 - share) * whole + share * squares
        return whole, (None, None, whole)
    squares = leaf.to_canonical(squares)
    row = (1 - share) * row + share * squares.mean(-1, keepdims=True)
    column = (1 - share) * column + share * squares.mean(-2, keepdims=True)
    estimate = row * column / jnp.maximum(row.mean(-2, keepdims=True), eps)
    return leaf.from_canonical(estimate), (row, column, None)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
