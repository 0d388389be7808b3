"""Under `precision="fp64"` JAX's attention keeps float64; its meaning is that of `jax.nn.dot_product_attention`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosstrain.precision import Precision
from crosstrain_jax.precision import forward_scope

FLOAT64 = Precision.parse("fp64")
DRAW = np.random.default_rng(0)
QUERY, KEY, VALUE = (DRAW.normal(size=(2, length, heads, 8)) for length, heads in ((5, 4), (6, 2), (6, 2)))
BIAS, MASK = DRAW.normal(size=(2, 4, 5, 6)), DRAW.random((2, 4, 5, 6)) < 0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"mask": MASK, "bias": BIAS, "scale": 0.3}, {"mask": MASK & False}],
    ids=["plain", "causal", "mask, bias, scale", "everything masked"],
)
def test_attention_means_the_same_in_float64(options: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        inputs = [jnp.asarray(each) for each in (QUERY, KEY, VALUE)]
        options = {name: jnp.asarray(value) if name in ("mask", "bias") else value for name, value in options.items()}
        expected = jax.nn.dot_product_attention(*inputs, **options)
        with forward_scope(FLOAT64):
            found = jax.nn.dot_product_attention(*inputs, **options)
        assert found.dtype == jnp.float64
        assert np.abs(found - expected).max() < 1e-6


def test_attention_reaches_float64() -> None:
    """Against softmax(q k / sqrt(d)) v in NumPy; key heads serve two query heads each."""
    key, value = (np.repeat(each, 2, axis=2) for each in (KEY, VALUE))
    weights = np.exp(np.einsum("btnh,bsnh->bnts", QUERY, key) / np.sqrt(8))
    expected = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)
    with jax.enable_x64(True), forward_scope(FLOAT64):
        found = jax.nn.dot_product_attention(*(jnp.asarray(each) for each in (QUERY, KEY, VALUE)))
    assert np.abs(np.asarray(found) - expected).max() < 1e-14


def test_other_precisions_keep_jaxs_own() -> None:
    own = jax.nn.dot_product_attention
    with forward_scope(Precision.parse("fp32")):
        assert jax.nn.dot_product_attention is own
