"""Paired models in torch, and how they receive their initial weights."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from crosstrain.models.spec import ModelConfig, built_config
from crosstrain_torch import naming
from crosstrain_torch.models.gpt import GPT
from crosstrain_torch.models.layers import BatchNorm, Dropout, GroupNorm, LayerNorm, RMSNorm
from crosstrain_torch.models.mlp import MLP
from crosstrain_torch.models.resnet9 import ResNet9

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "resnet9": ResNet9, "gpt": GPT}


def build(config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: torch.dtype) -> nn.Module:
    """The module of `config` with `weights` (canonical names and layout), in `dtype`.

    On the meta device it keeps `weights` for the time when it is known which part of them a process holds.
    """
    model = MODELS[config.kind](config).to(dtype)
    if any(param.is_meta for param in model.parameters()):
        model.__dict__["initial_weights"] = weights
        return model
    with torch.no_grad():
        for name, param in naming.parameters(model).items():
            param.copy_(torch.from_numpy(weights[name]))
    return model


def config_of(model: nn.Module) -> ModelConfig | None:
    """The config of a module that `build` made; None for any other, and for one with frozen parameters."""
    config = built_config(model, MODELS)
    return config if all(param.requires_grad for param in model.parameters()) else None


__all__ = [
    "GPT",
    "MLP",
    "MODELS",
    "BatchNorm",
    "Dropout",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "ResNet9",
    "build",
    "config_of",
]
