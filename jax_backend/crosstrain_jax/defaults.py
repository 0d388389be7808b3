"""Defaults of JAX that differ from torch's, as contexts in which JAX behaves as torch does. For diagnosis only.

A function that a model imported by name (`from jax.nn import gelu`) is out of reach.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
from flax import nnx


@contextlib.contextmanager
def _default(name: str, **arguments: Any) -> Iterator[None]:
    original = getattr(jax.nn, name)

    @functools.wraps(original)
    def changed(*args: Any, **given: Any) -> Any:
        return original(*args, **{**arguments, **given})

    with contextlib.ExitStack() as stack:
        for module in (jax.nn, nnx):
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, changed))
        yield


@contextlib.contextmanager
def _attention_in_input_type() -> Iterator[None]:
    def attention(query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **options: Any) -> Any:
        if options.get("is_causal"):
            causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
            mask = causal if mask is None else mask & causal
        scores = jnp.einsum("...thd,...shd->...hts", query, key) * query.shape[-1] ** -0.5
        scores = scores if bias is None else scores + bias
        scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
        return jnp.einsum("...hts,...shd->...thd", jax.nn.softmax(scores, axis=-1), value)

    with patch.object(jax.nn, "dot_product_attention", attention):
        yield


AS_TORCH: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "attention in the type of its inputs (JAX's own computes float64 inputs in float32)": _attention_in_input_type,
    "jax.nn.gelu(approximate=False), torch's default": lambda: _default("gelu", approximate=False),
    "jax.nn.leaky_relu(negative_slope=0.01), torch's default": lambda: _default("leaky_relu", negative_slope=0.01),
}
