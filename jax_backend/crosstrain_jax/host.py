"""Between the devices and the host: arrays by canonical name, and random keys as the words they are made of."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from crosstrain.snapshot import LazyArrays
from crosstrain_jax import naming
from crosstrain_jax.collectives import read


def to_canonical(names: list[naming.Leaf], leaves: Sequence[jax.Array]) -> dict[str, np.ndarray]:
    """Copies on the host by canonical name."""
    return dict(lazily(names, leaves))


def lazily(names: list[naming.Leaf], leaves: Sequence[jax.Array]) -> LazyArrays:
    """Arrays by canonical name, copied to the host when asked for."""

    def reader(leaf: naming.Leaf, values: jax.Array) -> Callable[[], np.ndarray]:
        return lambda: np.array(leaf.to_canonical(read(values)), order="C")

    return LazyArrays(
        {leaf.name: (leaf.canonical_shape, reader(leaf, values)) for leaf, values in zip(names, leaves, strict=True)}
    )


def by_name(names: Sequence[naming.Leaf], leaves: Sequence[jax.Array]) -> dict[str, jax.Array]:
    """Canonical name -> array as it is."""
    return {leaf.name: array for leaf, array in zip(names, leaves, strict=True)}


def words_of(array: jax.Array) -> jax.Array:
    """The words a random key is made of; any other array as it is."""
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def from_words(words: jax.Array, old: jax.Array) -> jax.Array:
    """An array like `old` from what `words_of` gave."""
    is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(old)) if is_key else words.astype(old.dtype)
