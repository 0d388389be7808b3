"""Causal attention: on whole sequences, and as a ring over the devices that split them.

Ring attention (Liu et al. 2023) is exact: every device keeps its queries, keys and values travel once around, and the
softmax is taken online (Milakov and Gimelshein 2018) with statistics in float32 or wider. Nothing of T x T elements
and no whole sequence of keys is ever on a device; the backward pass travels once more and computes the weights again.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from crosstrain.models.checks import require_parts
from crosstrain.sharding import SEQUENCE_AXIS
from crosstrain_jax.precision import wide_dtype
from crosstrain_jax.sharding import sequence_parts


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """softmax(q k^T / sqrt(head_dim)) v over earlier positions; (B, T, heads, head_dim), fewer heads in k and v.

    With segments, (B, T), a position sees only those of its own. A ring where the mesh has a `context` axis.

    Raises:
        ModelError: the axis does not divide T.
    """
    parts = sequence_parts()
    if parts > 1:
        require_parts(q.shape[1], parts)
        return _ring(q, k, v, segments, parts)
    _, length, heads, width = q.shape
    if k.shape[2] != heads:
        k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=wide_dtype(q)) * width**-0.5
    mask = jnp.tril(jnp.ones((length, length), bool))
    if segments is not None:
        mask = mask & (segments[:, None, :, None] == segments[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


class _Queries(NamedTuple):
    """A device's own part of the sequence: q of (B, T, groups, heads per group, width), and its segments."""

    q: jax.Array
    segments: jax.Array | None
    parts: int

    def scores(self, k: jax.Array, segments: jax.Array | None, turn: jax.Array) -> jax.Array:
        """(B, groups, heads per group, T, S) with keys that have travelled over `turn` devices; -inf is not seen."""
        here = jax.lax.axis_index(SEQUENCE_AXIS)
        length, places = k.shape[1], jnp.arange(k.shape[1])
        theirs = (here - turn) % self.parts * length + places
        mask = (here * length + places)[:, None] >= theirs
        if segments is not None and self.segments is not None:
            mask = mask & (self.segments[:, None, None, :, None] == segments[:, None, None, None, :])
        scores = jnp.einsum("btgrd,bsgd->bgrts", self.q, k, preferred_element_type=wide_dtype(self.q))
        return jnp.where(mask, scores * self.q.shape[-1] ** -0.5, -jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ring(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, parts: int) -> jax.Array:
    return _ring_forward(q, k, v, segments, parts)[0]


def _ring_forward(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, parts: int) -> Any:
    out, logs = _over_parts(partial(_forward, parts=parts), 2)(_grouped(q, k), k, v, segments)
    return out.reshape(q.shape).astype(v.dtype), (q, k, v, segments, out, logs)


def _ring_backward(parts: int, saved: Any, grad: jax.Array) -> Any:
    q, k, v, segments, out, logs = saved
    grads = _over_parts(partial(_backward, parts=parts), 3)(
        _grouped(q, k), k, v, segments, out, logs, _grouped(grad, k).astype(out.dtype)
    )
    return *(each.reshape(x.shape).astype(x.dtype) for each, x in zip(grads, (q, k, v), strict=True)), None


_ring.defvjp(_ring_forward, _ring_backward)


def _grouped(q: jax.Array, k: jax.Array) -> jax.Array:
    """(B, T, heads, width) -> (B, T, groups, heads per group, width): a group has one head of keys."""
    return q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])


def _over_parts(function: Any, results: int) -> Any:
    """Runs a function on every device's part of the sequence, dimension 1; batch and heads are the compiler's."""
    cut = P(None, SEQUENCE_AXIS)
    return jax.shard_map(function, in_specs=cut, out_specs=(cut,) * results, axis_names={SEQUENCE_AXIS})


def _pass_on(values: Any, parts: int) -> Any:
    """To the next device of the ring."""
    ring = [(index, (index + 1) % parts) for index in range(parts)]
    return jax.tree.map(lambda each: jax.lax.ppermute(each, SEQUENCE_AXIS, ring), values)


def _varying(values: jax.Array) -> jax.Array:
    """For the carry of a loop, which other values of each device will take the place of."""
    return jax.lax.pcast(values, SEQUENCE_AXIS, to="varying")


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, *, parts: int
) -> tuple[jax.Array, jax.Array]:
    """This device's outputs, in the wide type, and the logarithms, (B, T, groups, heads), of its softmax's sums."""
    queries, wide = _Queries(q, segments, parts), wide_dtype(q)

    def turn(carry: Any, index: jax.Array) -> Any:
        travelling, (total, weight, top) = carry
        k, v, theirs = travelling
        scores = queries.scores(k, theirs, index)
        # The first turn is the device's own part, where a position sees itself: `new` is finite from then on.
        new = jnp.maximum(top, scores.max(-1))
        keep, exps = jnp.exp(top - new), jnp.exp(scores - new[..., None])
        seen = jnp.einsum("bgrts,bsgd->bgrtd", exps.astype(v.dtype), v, preferred_element_type=wide)
        carry = total * keep[..., None] + seen, weight * keep + exps.sum(-1), new
        return (_pass_on(travelling, parts), carry), None

    batch, length, groups, heads, width = q.shape
    rows = (batch, groups, heads, length)
    start = tuple(
        _varying(each)
        for each in (jnp.zeros((*rows, width), wide), jnp.zeros(rows, wide), jnp.full(rows, -jnp.inf, wide))
    )
    (_, (total, weight, top)), _ = jax.lax.scan(turn, ((k, v, segments), start), jnp.arange(parts))
    out, logs = total / weight[..., None], top + jnp.log(weight)
    return out.transpose(0, 3, 1, 2, 4), logs.transpose(0, 3, 1, 2)


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    out: jax.Array,
    logs: jax.Array,
    grad: jax.Array,
    *,
    parts: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v in the wide type; those of k and v travel with them, and come home at last."""
    queries, wide, scale = _Queries(q, segments, parts), wide_dtype(q), q.shape[-1] ** -0.5
    logs, inner = (each.transpose(0, 2, 3, 1)[..., None] for each in (logs, (grad * out).sum(-1)))
    low = grad.astype(v.dtype)
    einsum = partial(jnp.einsum, preferred_element_type=wide)

    def turn(carry: Any, index: jax.Array) -> Any:
        (k, v, theirs, k_grad, v_grad), q_grad = carry
        weights = jnp.exp(queries.scores(k, theirs, index) - logs)
        change = (weights * (einsum("btgrd,bsgd->bgrts", low, v) - inner) * scale).astype(q.dtype)
        q_grad = q_grad + einsum("bgrts,bsgd->btgrd", change, k)
        k_grad = k_grad + einsum("bgrts,btgrd->bsgd", change, q)
        v_grad = v_grad + einsum("bgrts,btgrd->bsgd", weights.astype(v.dtype), low)
        return (_pass_on((k, v, theirs, k_grad, v_grad), parts), q_grad), None

    zeros = [_varying(jnp.zeros(each.shape, wide)) for each in (k, v, q)]
    (travelled, q_grad), _ = jax.lax.scan(turn, ((k, v, segments, zeros[0], zeros[1]), zeros[2]), jnp.arange(parts))
    return q_grad, travelled[3], travelled[4]
