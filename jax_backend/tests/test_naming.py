"""Canonical names and layouts of flax layers: torch's names, torch's layouts, and back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from crosstrain_jax import naming


def _four(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[[nnx.Rngs], nnx.Module]:
    """Four layers as one, as those that `nnx.scan` goes over."""
    return nnx.split_rngs(splits=4)(nnx.vmap(make))


LAYERS = {
    "Linear": (lambda r: nnx.Linear(2, 3, rngs=r), {"weight": (3, 2), "bias": (3,)}),
    "Conv": (lambda r: nnx.Conv(2, 3, (5, 4), rngs=r), {"weight": (3, 2, 5, 4), "bias": (3,)}),
    "Conv1d": (lambda r: nnx.Conv(2, 3, (5,), rngs=r), {"weight": (3, 2, 5), "bias": (3,)}),
    "ConvTranspose": (lambda r: nnx.ConvTranspose(2, 3, (5, 4), rngs=r), {"weight": (2, 3, 5, 4), "bias": (3,)}),
    "ConvTranspose of torch": (
        lambda r: nnx.ConvTranspose(2, 3, (5, 4), transpose_kernel=True, rngs=r),
        {"weight": (2, 3, 5, 4), "bias": (3,)},
    ),
    "PReLU": (lambda r: nnx.PReLU(), {"weight": (1,)}),
    "Embed": (lambda r: nnx.Embed(7, 2, rngs=r), {"weight": (7, 2)}),
    "LayerNorm": (lambda r: nnx.LayerNorm(3, rngs=r), {"weight": (3,), "bias": (3,)}),
    "BatchNorm": (lambda r: nnx.BatchNorm(3, rngs=r), {"weight": (3,), "bias": (3,)}),
    "GroupNorm": (lambda r: nnx.GroupNorm(4, num_groups=2, rngs=r), {"weight": (4,), "bias": (4,)}),
    "RMSNorm": (lambda r: nnx.RMSNorm(3, rngs=r), {"weight": (3,)}),
    "LinearGeneral": (lambda r: nnx.LinearGeneral(6, (2, 3), rngs=r), {"weight": (6, 6), "bias": (6,)}),
    "LinearGeneral in": (
        lambda r: nnx.LinearGeneral((2, 3), 5, axis=(-2, -1), rngs=r),
        {"weight": (5, 6), "bias": (5,)},
    ),
    "four Linear": (_four(lambda r: nnx.Linear(2, 3, rngs=r)), {"weight": (4, 3, 2), "bias": (4, 3)}),
    "four Conv": (_four(lambda r: nnx.Conv(2, 3, (5, 7), rngs=r)), {"weight": (4, 3, 2, 5, 7), "bias": (4, 3)}),
    "four ConvTranspose": (
        _four(lambda r: nnx.ConvTranspose(2, 3, (5, 7), rngs=r)),
        {"weight": (4, 2, 3, 5, 7), "bias": (4, 3)},
    ),
    "four LinearGeneral": (
        _four(lambda r: nnx.LinearGeneral(6, (2, 3), rngs=r)),
        {"kernel": (4, 6, 2, 3), "bias": (4, 2, 3)},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_names_shapes_and_round_trip(name: str) -> None:
    make, expected = LAYERS[name]
    layer = make(nnx.Rngs(0))
    leaves = naming.leaves(layer, nnx.Param)
    assert {leaf.name: leaf.canonical_shape for leaf in leaves} == expected
    for leaf, values in zip(leaves, jax.tree.leaves(nnx.state(layer, nnx.Param)), strict=True):
        canonical = leaf.to_canonical(np.asarray(values))
        assert canonical.shape == leaf.canonical_shape
        np.testing.assert_array_equal(leaf.from_canonical(canonical), values)


def test_a_linear_layer_means_the_same() -> None:
    layer, x = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    weight = {leaf.name: leaf for leaf in naming.leaves(layer, nnx.Param)}["weight"].to_canonical(layer.kernel[...])
    np.testing.assert_allclose(layer(x), x @ weight.T, rtol=1e-5)


def test_running_statistics_have_torchs_names() -> None:
    names = [leaf.name for leaf in naming.leaves(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.BatchStat)]
    assert names == ["running_mean", "running_var"]


def test_modules_come_in_the_order_of_definition() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.stem = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.blocks = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(11)])
            self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

            self.token = nnx.Param(jnp.zeros(2))

    order = naming.definition_order(Model())
    layers = ["stem", "blocks", *(f"blocks.{i}" for i in range(11)), "head"]
    assert [name for name in order if name in ("", *layers)] == ["", *layers]
    assert order[:5] == ["", "token", "stem", "stem.weight", "stem.bias"]
