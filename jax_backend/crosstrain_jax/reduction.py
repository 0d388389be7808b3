"""Gradients that devices add up in a narrower type: the exchanges over `data` and `fsdp` written out, not inferred."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from crosstrain.errors import ConfigError
from crosstrain.precision import Precision
from crosstrain.sharding import BATCH_AXES
from crosstrain_jax.layout import Layout, Leaves
from crosstrain_jax.precision import casts, compute_params
from crosstrain_jax.sharding import batch_devices, without


def applies(precision: Precision, mesh: Mesh) -> bool:
    """Whether the gradients of a step are added up in `Precision.reduce_dtype`."""
    return precision.reduces_narrowly and batch_devices(mesh) > 1


def require_no_buffers(layouts: Iterable[Layout]) -> None:
    """Refuses models that a device cannot run on its own examples alone.

    Raises:
        ConfigError: names the first variable that is no parameter.
    """
    named = [buffer.name for layout in layouts for buffer in layout.buffers]
    if named:
        raise ConfigError(
            "a model must have no variables but parameters with reduce_dtype on the jax engine, where each device sees "
            f"its own examples only, got {named[0]} ({len(named)} in all). Use reduce_dtype=None, or norms without "
            "statistics of the batch and crosstrain's Dropout."
        )


def reduced(
    sums: Callable[..., tuple[Leaves, Any]], layouts: Sequence[Layout], precision: Precision, mesh: Mesh
) -> Callable[..., Any]:
    """Gradients and table of a global batch from what every device computes on its examples.

    Args:
        sums: (whole parameters, count, batch, rows, whole others) -> sums over examples: gradients and table.
        layouts: of the state that learns, and of the others.
        precision: parameters are gathered in its compute type.
        mesh: of the devices.

    Returns:
        `(params, count, batch, rows, others) -> (gradients of sum / weight, table)`, to be traced in a step.
    """
    specs = [tuple(P(*without(each.spec)) for each in layout.shardings.params) for layout in layouts]

    def gather(params: Leaves, specs: Sequence[P]) -> Leaves:
        narrow = compute_params(params, precision) if casts(precision) else params
        return tuple(_gather(*each).astype(param.dtype) for param, *each in zip(params, narrow, specs, strict=True))

    def local(params: Leaves, count: jax.Array, batch: Any, rows: jax.Array, others: Any) -> tuple[Leaves, Any]:
        whole = gather(params, specs[0])
        others = tuple(
            (gather(params, spec), buffers) for (params, buffers), spec in zip(others, specs[1:], strict=True)
        )
        grads, table = sums(whole, count, batch, rows, others)
        table = jax.lax.psum(table, BATCH_AXES)  # a tree: the names are no arrays
        grads = tuple(map(_reduce, grads, specs[0]))
        return tuple(grad / table.weight.astype(grad.dtype) for grad in grads), table

    split = P(BATCH_AXES)
    inputs = (specs[0], P(), split, split, tuple((spec, ()) for spec in specs[1:]))
    return jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=(specs[0], P()), check_vma=False)


def _gather(param: jax.Array, spec: P) -> jax.Array:
    for dimension, axes in enumerate(spec):
        if axes:
            param = jax.lax.all_gather(param, axes, axis=dimension, tiled=True)
    return param


def _reduce(grad: jax.Array, spec: P) -> jax.Array:
    """This device's part of the sum over all devices; on the way it is bfloat16."""
    total, left = grad.astype(jnp.bfloat16), list(BATCH_AXES)
    for dimension, axes in enumerate(spec):
        if axes:
            total = jax.lax.psum_scatter(total, axes, scatter_dimension=dimension, tiled=True)
            left = [axis for axis in left if axis not in axes]
    return (jax.lax.psum(total, tuple(left)) if left else total).astype(grad.dtype)
