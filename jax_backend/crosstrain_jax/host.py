"""Between the devices and the host: arrays by canonical name, and random keys as the words they are made of."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from crosstrain.data.stacks import unstacked
from crosstrain.precision import Precision
from crosstrain.snapshot import LazyArrays
from crosstrain_jax import naming
from crosstrain_jax.collectives import read
from crosstrain_jax.precision import scope
from crosstrain_jax.sharding import batch_sharding, place


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


_SMALL = 2**20
"""Bytes of a batch up to which a call is faster."""


class Placer:
    """Puts this process's part of a global batch on its devices.

    Args:
        precision: of the run.
        mesh: of the run.
        parts: which parts of a batch this process holds, such as `batch_parts` says.
        count: how many parts there are.
    """

    def __init__(self, precision: Precision, mesh: Mesh, parts: tuple[int, ...], count: int) -> None:
        self._precision = precision
        self._mesh, self._parts, self._count = mesh, parts, count
        self._call: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]] | None = None
        if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu":
            # A compiled function takes small arguments to the device in a sixth of the time of `jax.device_put`, which
            # is longer than a small step, and large ones in twice; what it only passes on is not computed.
            sharding = batch_sharding(mesh)
            self._call = jax.jit(lambda batch: batch, in_shardings=sharding, out_shardings=sharding)
            self._unstack = jax.jit(_unstack, in_shardings=sharding, out_shardings=sharding)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The same fields, (B, ...), on the devices."""
        with scope(self._precision):
            return self._put(batch, 0)

    def stack(self, batches: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The same of several batches, (count, B, ...)."""
        with scope(self._precision):
            return self._put(batches, 1)

    def apart(self, batches: dict[str, np.ndarray]) -> list[dict[str, jax.Array]]:
        """The same as batches of their own; small ones in one call."""
        if self._call is None or sum(values.nbytes for values in batches.values()) > _SMALL:
            return [self(batch) for batch in unstacked(batches)]
        with scope(self._precision):
            return self._unstack(batches)

    def whole(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Any arrays, whole on every device."""
        with scope(self._precision):
            return {name: place(values, NamedSharding(self._mesh, P())) for name, values in arrays.items()}

    def _put(self, fields: dict[str, np.ndarray], dimension: int) -> dict[str, jax.Array]:
        if self._call is not None and sum(values.nbytes for values in fields.values()) <= _SMALL:
            return self._call(fields)
        shardings = {name: self._sharding(values.ndim, dimension) for name, values in fields.items()}
        if jax.process_count() == 1:
            return jax.device_put(fields, shardings)
        return {name: self._part(values, shardings[name], dimension) for name, values in fields.items()}

    def _sharding(self, ndim: int, dimension: int) -> NamedSharding:
        spec = batch_sharding(self._mesh, ndim - dimension).spec
        return NamedSharding(self._mesh, P(*[None] * dimension, *spec))

    def _part(self, values: np.ndarray, sharding: NamedSharding, dimension: int) -> jax.Array:
        """Rows, along a dimension, that this process has, and all else; each device takes what it is to hold."""
        size = values.shape[dimension] // len(self._parts)
        shape = list(values.shape)
        shape[dimension] = self._count * size

        def local(index: tuple[slice, ...]) -> np.ndarray:
            low, high, _ = index[dimension].indices(shape[dimension])
            start = self._parts.index(low // size) * size + low % size
            return values[*index[:dimension], start : start + high - low, *index[dimension + 1 :]]

        return jax.make_array_from_callback(tuple(shape), sharding, local)


def _unstack(batches: dict[str, jax.Array]) -> list[dict[str, jax.Array]]:
    return unstacked({name: jnp.unstack(values) for name, values in batches.items()})
