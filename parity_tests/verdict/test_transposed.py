"""Transposed convolutions and PReLU: both frameworks share their names and layouts, so that ports are compared."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port
from crosstrain.parity.verdict import compare


class TorchNet(nn.Module):
    def __init__(self, ndim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 1](2, 4, 3, stride=2)
        self.act = nn.PReLU()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.act(self.up(image)).flatten(1).mean(1)


class FlaxNet(nnx.Module):
    def __init__(self, ndim: int, transpose_kernel: bool) -> None:
        options = {"strides": (2,) * ndim, "padding": "VALID", "transpose_kernel": transpose_kernel}
        self.up = nnx.ConvTranspose(2, 4, (3,) * ndim, **options, rngs=nnx.Rngs(0))
        self.act = nnx.PReLU()

    def __call__(self, image: jax.Array) -> jax.Array:
        out = self.act(self.up(image.transpose(0, *range(2, image.ndim), 1)))
        return out.reshape(len(out), -1).mean(1)


@pytest.mark.parametrize("transpose_kernel", [True, False])
@pytest.mark.parametrize(
    ("ndim", "optimizer"), [(1, ct.adamw(1e-2)), (2, ct.adafactor(1e-2)), (2, ct.muon(1e-2)), (3, ct.adamw(1e-2))]
)
def test_ports_with_them_are_the_same_algorithm(ndim: int, transpose_kernel: bool, optimizer: ct.OptimizerSpec) -> None:
    def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return ops.mean(model(batch["image"]) ** 2)

    port = Port(
        torch_model=lambda: TorchNet(ndim),
        jax_model=lambda: FlaxNet(ndim, transpose_kernel),
        torch_loss=loss_fn,
        jax_loss=loss_fn,
        batches=lambda step: {"image": np.random.default_rng(step).normal(size=(3, 2, *[4] * ndim))},
        optimizer=optimizer,
    )
    torch_side, jax_side, matching = port.sides()
    assert matching.complete
    verdict = compare(torch_side, jax_side, total_steps=4, free_steps=4)
    assert verdict.same_algorithm, [str(finding) for finding in verdict.findings]
