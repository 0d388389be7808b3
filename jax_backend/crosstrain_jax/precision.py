"""Dtypes of the JAX engine: how leaves and batches are cast for one forward pass, and 64-bit mode."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes as nnx_dtypes

from crosstrain.data.loader import WEIGHT
from crosstrain.precision import Precision

DTYPES = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}


def param_dtype(precision: Precision) -> jnp.dtype:
    """Type of weights and moments."""
    return jnp.dtype(DTYPES[precision.param_dtype])


def casts(precision: Precision) -> bool:
    """Whether weights are cast for the forward pass."""
    return precision.compute_dtype != precision.param_dtype


def wide_dtype(values: jax.Array) -> jnp.dtype:
    """The type of statistics over `values`: float32, or theirs where it is wider."""
    return jnp.promote_types(values.dtype, jnp.float32)


def compute_params(leaves: Sequence[jax.Array], precision: Precision) -> tuple[jax.Array, ...]:
    """Parameters in the compute type; gradients flow back to the originals."""
    dtype = DTYPES[precision.compute_dtype]
    return tuple(leaf.astype(dtype) if is_floating(leaf) else leaf for leaf in leaves)


def compute_batch(batch: Mapping[str, jax.Array], precision: Precision) -> dict[str, jax.Array]:
    """The batch with its floating fields in the compute type; the weights of examples stay as they are."""
    dtype = DTYPES[precision.compute_dtype]
    return {
        name: values.astype(dtype) if is_floating(values) and name != WEIGHT else values
        for name, values in batch.items()
    }


def is_floating(leaf: jax.Array) -> bool:
    """Whether a leaf is a floating array (random keys and counters are not)."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def needs_x64(precision: Precision) -> bool:
    """Whether JAX's 64-bit mode, a switch of the thread, has to be on wherever arrays are traced or placed."""
    return precision.param_dtype == "float64"


def scope(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """64-bit mode for a float64 run; nothing otherwise."""
    return jax.enable_x64(True) if needs_x64(precision) else contextlib.nullcontext()


def forward_scope(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Full precision in matrix products and convolutions unless they are bfloat16; entered while tracing."""
    if precision.compute_dtype == "bfloat16":
        return contextlib.nullcontext()
    return jax.default_matmul_precision("highest")


def to_host(values: jax.Array) -> np.ndarray:
    """A copy on the host; bfloat16, which NumPy lacks, as float32."""
    host = np.asarray(values)
    return host.astype(np.float32) if host.dtype == jnp.bfloat16 else host


def unpin_types(model: nnx.Module) -> None:
    """Lets `nnx.Embed` and `nnx.BatchNorm` compute in the type of the run, as every other layer does.

    Embed stores the type that its table had when it was made, so a bfloat16 run would go on in float32 after it, and
    a float64 run would lose half of its digits there. BatchNorm promotes its input to the type of its running
    statistics, which stay float32 in a bfloat16 run, and so would everything after it.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Embed):
            module.dtype = None
        elif isinstance(module, nnx.BatchNorm) and module.promote_dtype is nnx_dtypes.promote_dtype:
            module.promote_dtype = _promote_when_asked


def _promote_when_asked(values: tuple[Any, ...], *, dtype: Any = None) -> tuple[Any, ...]:
    """Leaves types alone unless the layer was given one: it computes in float32 or wider, and returns its input's."""
    return values if dtype is None else nnx_dtypes.promote_dtype(values, dtype=dtype)
