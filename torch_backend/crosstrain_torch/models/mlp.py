"""The multi-layer perceptron in torch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain.models.checks import require_floating, require_shape
from crosstrain.models.mlp import MLPConfig
from crosstrain_torch.models.layers import Dropout

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class MLP(nn.Module):
    """See `MLPConfig`."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        pairs = list(zip(config.widths, config.widths[1:], strict=False))
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairs)
        self.dropouts = nn.ModuleList(
            Dropout(config.dropout, f"dropouts.{i}", width) for i, width in enumerate(config.hidden)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> logits (B, out_features)."""
        require_floating("input", x, x.is_floating_point())
        x = x.reshape(len(x), -1)
        require_shape("input", x, ("B", self.config.in_features))
        activation = ACTIVATIONS[self.config.activation]
        for layer, dropout in zip(self.layers, self.dropouts, strict=False):
            x = dropout(activation(layer(x)))
        return self.layers[-1](x)
