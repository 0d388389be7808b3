"""Pixels of transforms in jax.numpy, and the compiled function that changes a batch on the devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from crosstrain.data.device import Chain
from crosstrain.data.pixels import Pixels
from crosstrain.precision import Precision
from crosstrain_jax.precision import scope
from crosstrain_jax.sharding import batch_sharding

Batch = dict[str, jax.Array]


class JaxPixels(Pixels):
    """See `crosstrain.data.pixels.Pixels`."""

    def constant(self, values: np.ndarray, like: jax.Array) -> jax.Array:
        """See `Pixels`."""
        return jnp.asarray(values)

    def cast(self, values: jax.Array, dtype: str) -> jax.Array:
        """See `Pixels`."""
        return values.astype(dtype)

    def product(self, left: jax.Array, right: jax.Array) -> jax.Array:
        """See `Pixels`."""
        product = left * right
        # XLA rounds a product together with the sum after it, reorders chains of products, and sees through
        # optimization barriers and roundings to the same type. It does neither across a clip.
        finite = jnp.finfo(product.dtype)
        return jnp.clip(product, finite.min, finite.max)

    def clip(self, values: jax.Array, low: float, high: float) -> jax.Array:
        """See `Pixels`."""
        return jnp.clip(values, low, high)

    def rint(self, values: jax.Array) -> jax.Array:
        """See `Pixels`."""
        return jnp.rint(values)

    def stack(self, arrays: list[jax.Array]) -> jax.Array:
        """See `Pixels`."""
        return jnp.stack(arrays, axis=-1)

    def take(self, values: jax.Array, positions: np.ndarray | jax.Array, axis: int) -> jax.Array:
        """See `Pixels`."""
        return jnp.take(values, positions, axis=axis, mode="clip")

    def gather(self, images: jax.Array, lines: jax.Array, columns: jax.Array) -> jax.Array:
        """See `Pixels`."""
        return jax.vmap(lambda image, line, column: image[line[:, None], column[None, :]])(images, lines, columns)

    def mirror(self, images: jax.Array, chosen: jax.Array) -> jax.Array:
        """See `Pixels`."""
        return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)

    def cover(self, images: jax.Array, mask: jax.Array, others: Any) -> jax.Array:
        """See `Pixels`."""
        return jnp.where(mask[..., None], others, images)


class Augment:
    """Changes batches on the devices, each its own part: compiled once per chain and shape of batch."""

    def __init__(self, mesh: Mesh, precision: Precision) -> None:
        self._mesh, self._precision = mesh, precision
        self._run = jax.jit(self._traced, static_argnums=0)

    def __call__(self, chain: Chain, fields: Batch, drawn: Batch, held: Batch) -> Batch:
        """Fields and what was drawn for them, both split over the data axis; what is held is whole on each device."""
        with scope(self._precision):
            return self._run(chain, fields, drawn, held)

    def _traced(self, chain: Chain, fields: Batch, drawn: Batch, held: Batch) -> Batch:
        spec = batch_sharding(self._mesh).spec
        run = jax.shard_map(
            partial(chain.run, JaxPixels()), mesh=self._mesh, in_specs=(spec, spec, PartitionSpec()), out_specs=spec
        )
        return run(fields, drawn, held)
