"""Muon, with AdamW for what is no matrix; see `crosstrain.optim.Muon`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosstrain.optim import Hyper, Muon
from crosstrain.optim.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS
from crosstrain_jax.naming import Leaf
from crosstrain_jax.optim.adam import direction, new_moments
from crosstrain_jax.optim.base import Leaves, Optimizer, Some, Transformation, start_count, zeros


class MuonState(NamedTuple):
    """Momentum of the matrices, moments of the other parameters."""

    count: jax.Array
    momentum: Some
    first_moment: Some
    second_moment: Some


def muon(optimizer: Optimizer, hyper: Hyper) -> Transformation:
    """With decoupled decay."""
    spec = optimizer.spec
    assert isinstance(spec, Muon)
    matrices = [spec.is_matrix(leaf.role, len(leaf.canonical_shape)) for leaf in optimizer.leaves]

    def init(params: Leaves) -> MuonState:
        others = [not yes for yes in matrices]
        return MuonState(start_count(), zeros(params, matrices), zeros(params, others), zeros(params, others))

    def direct(leaf: Leaf, g: jax.Array, kept: Some, count: jax.Array) -> tuple[jax.Array, Some]:
        momentum, first, second = kept
        if momentum is None:
            betas = spec.fallback.betas
            first, second = new_moments(g, first, second, betas)
            return direction(first, second, count, betas, spec.fallback.eps), (None, first, second)
        momentum = hyper.momentum * momentum + g
        u = g + hyper.momentum * momentum if spec.nesterov else momentum
        return _orthogonal(leaf, u, spec.eps), (momentum, None, None)

    def update(grads: Leaves, state: MuonState, params: Leaves | None = None) -> tuple[Leaves, MuonState]:
        assert params is not None
        count = state.count + 1
        kept = zip(state.momentum, state.first_moment, state.second_moment, strict=True)
        found = [direct(*each, count) for each in zip(optimizer.leaves, grads, kept, strict=True)]
        directions = tuple(
            (1.0 if matrix else spec.fallback_scale) * (d + each.weight_decay * p)
            for matrix, (d, _), each, p in zip(matrices, found, optimizer.settings, params, strict=True)
        )
        momenta, firsts, seconds = (tuple(new[index] for _, new in found) for index in range(3))
        return directions, MuonState(count, momenta, firsts, seconds)

    return optax.chain(Transformation(init, update))


def _orthogonal(leaf: Leaf, u: jax.Array, eps: float) -> jax.Array:
    """sqrt(max(1, out / in)) orthogonal(u), in the layout of `u`."""
    canonical = leaf.to_canonical(u)
    if leaf.role == "experts":
        found = jax.vmap(lambda matrix: _of_matrix(matrix, eps))(canonical)
    else:
        found = _of_matrix(canonical.reshape(canonical.shape[0], -1), eps).reshape(canonical.shape)
    return leaf.from_canonical(found).astype(u.dtype)


def _of_matrix(matrix: jax.Array, eps: float) -> jax.Array:
    rows, columns = matrix.shape
    x = newton_schulz(matrix.T, eps).T if rows > columns else newton_schulz(matrix, eps)
    return max(1.0, rows / columns) ** 0.5 * x


def newton_schulz(u: jax.Array, eps: float) -> Any:
    """The iteration over a matrix with no more rows than columns, in float32 or wider."""
    a, b, c = NEWTON_SCHULZ
    x = u.astype(jnp.promote_types(u.dtype, jnp.float32))
    x = x / (jnp.linalg.norm(x) + eps)
    with jax.default_matmul_precision("highest"):
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x
