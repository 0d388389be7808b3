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

    def _cross_entropy(
        self, logits: jax.Array, labels: jax.Array, *, label_smoothing: float, ignore_index: int
    ) -> tuple[jax.Array, jax.Array]:
        classes = logits.shape[-1]
        logits = self.upcast(logits)
        counted = labels != ignore_index
        in_range = (labels >= 0) & (labels < classes)
        picked = jnp.take_along_axis(logits, jnp.where(in_range, labels, 0)[..., None], axis=-1)[..., 0]
        total = jax.nn.logsumexp(logits, axis=-1)
        values = total - picked
        if label_smoothing:
            values = (1.0 - label_smoothing) * values + label_smoothing * (total - logits.mean(-1))
        values = jnp.where(counted, jnp.where(in_range, values, jnp.nan), 0.0)
        return values, counted.astype(values.dtype)

    def _accuracy(self, logits: jax.Array, labels: jax.Array, *, ignore_index: int) -> tuple[jax.Array, jax.Array]:
        correct = (logits.argmax(-1) == labels).astype(jnp.float32)
        return correct, (labels != ignore_index).astype(correct.dtype)

    def _softplus(self, values: jax.Array) -> jax.Array:
        return jax.nn.softplus(values)
