"""Padding is compared as the zeros that a convolution puts around its input, whatever it is called."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port
from crosstrain.parity.side import Side
from crosstrain.parity.static import compare_static
from crosstrain.parity.verdict import compare


class TorchNet(nn.Module):
    def __init__(self, kernel: int, stride: int, dilation: int, padding: Any, mode: Any = "zeros") -> None:
        super().__init__()
        torch.manual_seed(0)
        options = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
        self.conv = nn.Conv2d(2, 4, kernel, **options)
        self.before = (0, 0, 0, 0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(nn.functional.pad(image, self.before))).mean((1, 2, 3))


class FlaxNet(nnx.Module):
    def __init__(self, kernel: int, stride: int, dilation: int, padding: Any) -> None:
        options = {"strides": stride, "kernel_dilation": dilation, "padding": padding}
        self.conv = nnx.Conv(2, 4, (kernel, kernel), **options, rngs=nnx.Rngs(0))

    def __call__(self, image: jax.Array) -> jax.Array:
        return jnp.tanh(self.conv(image.transpose(0, 2, 3, 1))).mean((1, 2, 3))


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.mean(model(batch["image"]) ** 2)


def sides(
    size: int,
    shape: tuple[int, int, int],
    padding: Any,
    of_flax: Any,
    mode: str = "zeros",
    before: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> tuple[Side, Side]:
    """Both models, on images of a size.

    Args:
        size: height and width.
        shape: kernel, stride and dilation.
        padding: of torch's convolution.
        of_flax: of flax's.
        mode: what torch pads with.
        before: zeros that the torch model puts around the image itself.
    """

    def torch_model() -> TorchNet:
        model = TorchNet(*shape, padding, mode)
        model.before = before
        return model

    port = Port(
        torch_model=torch_model,
        jax_model=lambda: FlaxNet(*shape, of_flax),
        torch_loss=loss_fn,
        jax_loss=loss_fn,
        batches=lambda step: {"image": np.random.default_rng(step).normal(size=(3, 2, size, size))},
        optimizer=ct.sgd(0.1),
    )
    return port.sides()[:2]


@pytest.mark.parametrize(
    ("size", "shape", "padding", "of_flax"),
    [
        (6, (3, 1, 1), 1, "SAME"),  # flax's default, and what torch models write
        (6, (1, 1, 1), 0, "SAME"),
        (6, (3, 1, 2), 2, "SAME"),
        (6, (4, 1, 2), "same", "SAME"),
        (8, (4, 4, 1), 0, "SAME"),  # patches
        (7, (3, 2, 1), 1, "SAME"),
        (6, (3, 1, 1), "valid", "VALID"),
        (6, (3, 1, 1), (1, 0), (1, 0)),
    ],
)
def test_equal_zeros_are_no_difference(size: int, shape: tuple[int, int, int], padding: Any, of_flax: Any) -> None:
    assert compare(*sides(size, shape, padding, of_flax), total_steps=1, free_steps=2).findings == ()


@pytest.mark.parametrize(
    ("shape", "of_flax", "before"),
    [((3, 1, 1), "SAME", (1, 1, 1, 1)), ((3, 2, 1), "SAME", (0, 1, 0, 1)), ((3, 2, 1), ((1, 1), (1, 1)), (1, 1, 1, 1))],
)
def test_zeros_put_around_before_a_layer_are_no_difference(
    shape: tuple[int, int, int], of_flax: Any, before: tuple[int, int, int, int]
) -> None:
    assert compare(*sides(6, shape, 0, of_flax, before=before), total_steps=1, free_steps=2).findings == ()


def test_other_zeros_put_around_before_a_layer_are_named() -> None:
    found = compare(*sides(6, (3, 2, 1), 0, "SAME", before=(1, 0, 1, 0)), total_steps=1, free_steps=2).findings
    assert [each.where for each in found[:2]] == ["conv.padding", "between the input of (model) and conv"]


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_what_is_put_around_is_compared_too(mode: str) -> None:
    assert compare(*sides(6, (3, 1, 2), 2, mode.upper(), mode), total_steps=1, free_steps=2).findings == ()
    a, b = (side.open("fp64") for side in sides(6, (3, 1, 2), 2, "SAME", mode))
    cause = f"{mode} against zeros"
    assert [(each.where, each.cause) for each in compare_static(a, b, steps=1)] == [("conv.padding_mode", cause)]


@pytest.mark.parametrize(
    ("size", "shape", "padding", "cause"),
    [
        (8, (3, 2, 1), 1, "(1, 1, 1, 1) against (0, 1, 0, 1)"),
        (10, (4, 4, 1), 0, "(0, 0, 0, 0) against (1, 1, 1, 1)"),
        (6, (5, 1, 1), 1, "(1, 1, 1, 1) against (2, 2, 2, 2)"),
    ],
)
def test_other_zeros_are_named(size: int, shape: tuple[int, int, int], padding: Any, cause: str) -> None:
    a, b = (side.open("fp64") for side in sides(size, shape, padding, "SAME"))
    assert [(each.where, each.cause) for each in compare_static(a, b, steps=1)] == [("conv.padding", cause)]
