"""Losses and metrics in jax.numpy, held to the definitions in `crosstrain.ops`."""

from typing import Any

import jax
import jax.numpy as jnp

from crosstrain.ops import Ops


class JaxOps(Ops):
    """See `crosstrain.Ops`."""

    def upcast(self, values: jax.Array) -> jax.Array:
        """See `crosstrain.Ops`."""
        return values if values.dtype == jnp.float64 else values.astype(jnp.float32)

    def ones_like(self, values: jax.Array) -> jax.Array:
        """See `crosstrain.Ops`."""
        return jnp.ones_like(values)

    def zeros_like(self, values: jax.Array) -> jax.Array:
        """See `crosstrain.Ops`."""
        return jnp.zeros_like(values)

    def is_floating(self, values: Any) -> bool:
        """See `crosstrain.Ops`."""
        return bool(jnp.issubdtype(values.dtype, jnp.floating))

    def widen(self, values: jax.Array) -> jax.Array:
        """See `crosstrain.Ops`."""
        return values if values.dtype in (jnp.int64, jnp.int32) else values.astype(jnp.int32)

    def _cross_entropy(
        self, logits: jax.Array, labels: jax.Array, *, label_smoothing: float, z_loss: float, ignore_index: int
    ) -> tuple[jax.Array, jax.Array]:
        logits = self.upcast(logits)
        counted = labels != ignore_index
        picked, in_range = _pick(logits, labels)
        total = jax.nn.logsumexp(logits, axis=-1)
        values = total - picked
        if label_smoothing:
            values = (1.0 - label_smoothing) * values + label_smoothing * (total - logits.mean(-1))
        if z_loss:
            values = values + z_loss * total * total
        values = jnp.where(counted, jnp.where(in_range, values, jnp.nan), 0.0)
        return values, counted.astype(values.dtype)

    def _accuracy(self, logits: jax.Array, labels: jax.Array, *, ignore_index: int) -> tuple[jax.Array, jax.Array]:
        correct = (logits.argmax(-1) == labels).astype(jnp.float32)
        return correct, (labels != ignore_index).astype(correct.dtype)

    def _abs(self, values: jax.Array) -> jax.Array:
        # jnp.abs has derivative 1 at 0.
        return values * jnp.sign(values)

    def _softplus(self, values: jax.Array) -> jax.Array:
        return jax.nn.softplus(values)

    def _kl_div(self, p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
        log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
        p = jnp.exp(log_p)
        return (p * jnp.where(p > 0, log_p - log_q, 0.0)).sum(-1)

    def _rank(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        picked, in_range = _pick(logits, labels)
        picked, classes = picked[..., None], logits.shape[-1]
        earlier = jnp.arange(classes) < labels[..., None]
        before = ~(logits <= picked) | ((logits == picked) & earlier)
        return jnp.where(in_range, before.sum(-1), classes)


def _pick(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logit of each label, and whether the label is in [0, C)."""
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.take_along_axis(logits, jnp.where(in_range, labels, 0)[..., None], axis=-1)[..., 0], in_range
