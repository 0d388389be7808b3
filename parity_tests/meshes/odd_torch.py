"""Models in torch whose weights are shared, used twice, not used, or frozen; a loss function that draws."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

import crosstrain as ct
from parity_tests.meshes import cases, own_torch


class Tied(nn.Module):
    """Tokens (B, 8) -> logits (B, 8, 32), one weight for both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(own_torch.Block() for _ in range(2))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Odd(Tied):
    """Two blocks that share a weight, one that is used twice, one that is not used, and weights that do not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks.extend([own_torch.Block(), own_torch.Block()])
        self.blocks[1].up.weight = self.blocks[0].up.weight
        self.blocks[2].requires_grad_(False)
        self.norm.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for index in (0, 1, 2, 0):
            x = self.blocks[index](x)
        return self.head(self.norm(x))


def odd(mesh: ct.MeshSpec, min_size: int = 0) -> dict[str, np.ndarray]:
    """Accumulated over micro-batches and clipped; losses, norms and everything that the state holds."""
    rules = dataclasses.replace(cases.OWN_RULES, min_size=min_size)
    accelerator = ct.Accelerator("torch", precision="fp64", mesh=mesh, sharding=rules)
    torch.manual_seed(0)
    state = accelerator.prepare(Odd(), ct.adamw(1e-2, weight_decay=0.1), average=ct.ema(0.9))
    case = dataclasses.replace(cases.CASES["own"], options={"accumulate_steps": 2, "clip_norm": 0.1})
    return cases.train(accelerator, state, case, 4) | cases.arrays_of(state)


def _noisy_loss(model: nn.Module, batch: Any, ops: ct.Ops) -> Any:
    """Draws what the model is given and what it is asked for, the same positions of every example."""
    tokens = batch["tokens"].where(torch.rand(batch["tokens"].shape[1]) < 0.5, 0)
    return ops.cross_entropy(model(tokens), tokens.roll(1, dims=1))


def noisy(mesh: ct.MeshSpec) -> dict[str, np.ndarray]:
    """Losses of the paired gpt under a loss function with random numbers of its own."""
    case = cases.CASES["gpt"]
    accelerator = ct.Accelerator("torch", precision="fp64", mesh=mesh)
    state = cases.state_for(accelerator, case, "adamw")
    step = accelerator.train_step(_noisy_loss)
    batch = next(iter(accelerator.loader(cases.data_of(case), batch_size=8)))
    return {"loss": np.array([step(state, batch)["loss"] for _ in range(3)])}
