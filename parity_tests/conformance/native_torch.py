"""A user's own torch model: layers of torch, nothing of crosstrain."""

import numpy as np
import torch
from torch import nn


class Small(nn.Module):
    """Convolution, BatchNorm, LayerNorm, dropout and a linear head on images (B, 8, 8, 1)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(256)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(image.permute(0, 3, 1, 2))))
        return self.head(self.dropout(self.layer_norm(x.flatten(1))))


class Biased(nn.Module):
    """Layers whose biases have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.recurrent = nn.LSTM(4, 4, bidirectional=True)
        self.gated = nn.GRU(4, 4)
        self.out_bias = nn.Parameter(torch.zeros(4))


class Tokens(nn.Module):
    """Embedding, LayerNorm and a linear head on tokens (B, T)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(32, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embedding(tokens)))


class Linear(nn.Module):
    """A linear layer, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image.reshape(len(image), -1))


def leaf(state: object) -> torch.Tensor:
    """An array of the state as the device has it now."""
    return next(state.model.parameters())


def is_gone(old: torch.Tensor, values: object) -> bool:
    """Whether an array from before a step no longer holds what it held then."""
    return not torch.equal(old.detach(), torch.as_tensor(values))


def weights(values: np.ndarray) -> torch.Tensor:
    """As a state dict of the framework holds them."""
    return torch.tensor(values, dtype=torch.bfloat16, requires_grad=True)


def optimizer() -> object:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
