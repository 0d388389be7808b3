"""A torch module with a parameter of every shape and role that optimizers tell apart."""

import torch
from torch import nn


def build(a: int, b: int, c: int) -> nn.Module:
    model = nn.Module()
    model.wide = nn.Linear(a + b, a)
    model.tall = nn.Linear(a, a + b, bias=False)
    model.square = nn.Linear(a, a, bias=False)
    model.conv = nn.Conv2d(b, a, (2, c))
    model.heads = nn.Linear(a, 2 * c)
    model.embed = nn.Embedding(b, c)
    model.norm = nn.RMSNorm(c)
    model.stack = nn.Module()
    model.stack.stacked_experts = True
    model.stack.experts = nn.Parameter(torch.zeros(c, a, b))
    return model
