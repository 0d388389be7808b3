"""Dtypes of the JAX engine: how leaves and batches are cast for one forward pass, and 64-bit mode."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes as nnx_dtypes

from crosstrain.data.loader import WEIGHT
from crosstrain.precision import Precision

_CELLS = (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
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


@contextlib.contextmanager
def forward_scope(precision: Precision) -> Iterator[None]:
    """Full precision in matrix products and convolutions unless they are bfloat16; entered while tracing.

    `jax.nn.dot_product_attention` computes float64 inputs in float32; a float64 run gets it in float64.
    """
    with contextlib.ExitStack() as stack:
        if precision.compute_dtype != "bfloat16":
            stack.enter_context(jax.default_matmul_precision("highest"))
        if precision.compute_dtype == "float64":
            wide = functools.partial(_attention, jax.nn.dot_product_attention)
            stack.enter_context(patch.object(jax.nn, "dot_product_attention", wide))
        yield


def _attention(
    original: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    **options: Any,
) -> jax.Array:
    """`jax.nn.dot_product_attention` (its positional order; (..., T, N, H) arrays) in the type of its inputs."""
    if query.dtype != jnp.float64 or options:
        return original(query, key, value, bias, mask, scale=scale, is_causal=is_causal, **options)
    key, value = (jnp.repeat(each, query.shape[-2] // each.shape[-2], axis=-2) for each in (key, value))
    if is_causal:
        causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
        mask = causal if mask is None else mask & causal
    scores = jnp.einsum("...tnh,...snh->...nts", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    # As in the original, a row that is masked everywhere has equal weights, not NaN.
    scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("...nts,...snh->...tnh", jax.nn.softmax(scores, axis=-1), value)


def to_host(values: jax.Array) -> np.ndarray:
    """A copy on the host; bfloat16, which NumPy lacks, as float32."""
    host = np.asarray(values)
    return host.astype(np.float32) if host.dtype == jnp.bfloat16 else host


def unpin_types(model: nnx.Module, precision: Precision | None = None) -> None:
    """Lets `nnx.Embed`, `nnx.BatchNorm` and recurrent cells compute in the type of the run, as every other layer does.

    Embed stores the type that its table had when it was made, so a bfloat16 run would go on in float32 after it, and
    a float64 run would lose half of its digits there. BatchNorm promotes its input to the type of its running
    statistics, which stay float32 in a bfloat16 run, and so would everything after it. Cells begin with a carry of the
    type that their weights were made in, which a scan over float64 refuses; one with a `dtype` of its own keeps it.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Embed):
            module.dtype = None
        elif isinstance(module, nnx.BatchNorm) and module.promote_dtype is nnx_dtypes.promote_dtype:
            module.promote_dtype = _promote_when_asked
        elif isinstance(module, _CELLS) and module.dtype is None and precision is not None:
            module.param_dtype = DTYPES[precision.compute_dtype]


def _promote_when_asked(values: tuple[Any, ...], *, dtype: Any = None) -> tuple[Any, ...]:
    """Leaves types alone unless the layer was given one: it computes in float32 or wider, and returns its input's."""
    return values if dtype is None else nnx_dtypes.promote_dtype(values, dtype=dtype)
