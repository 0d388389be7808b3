"""Paired models: one config, one list of canonical parameters, a native module on each engine."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.errors import ConfigError
from crosstrain.models.experts import Experts
from crosstrain.models.gpt import GPTConfig
from crosstrain.models.mlp import MLPConfig
from crosstrain.models.presets import PRESETS
from crosstrain.models.resnet9 import ResNet9Config
from crosstrain.models.spec import ModelConfig, ParamSpec
from crosstrain.snapshot import LazyArrays, Readers

CONFIGS: dict[str, type[ModelConfig]] = {config.kind: config for config in (MLPConfig, ResNet9Config, GPTConfig)}


def build(
    name: str,
    config: ModelConfig | None,
    accelerator: Accelerator,
    *,
    seed: int | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """A paired model as a native module of the accelerator's engine.

    Args:
        name: `mlp`, `resnet9` or `gpt`.
        config: None takes the config's defaults.
        accelerator: decides the engine, and the seed by default.
        seed: of the initial weights, which are the same on both engines.
        weights: canonical name -> value, canonical layout, in the place of some of those.

    Returns:
        A `flax.nnx.Module` or a `torch.nn.Module`.

    Raises:
        ConfigError: an unknown name, a config of another model, or weights that it has not.
    """
    if name not in CONFIGS:
        raise ConfigError(f"model must be one of {', '.join(CONFIGS)}, got {name!r}.")
    config = CONFIGS[name]() if config is None else config
    if type(config) is not CONFIGS[name]:
        raise ConfigError(f"config must be a {CONFIGS[name].__name__} for model {name!r}, got {type(config).__name__}.")
    key = accelerator.seed if seed is None else seed
    # Each is made when it is asked for: a model need not fit into host memory.
    drawn = {
        name: (each.shape, partial(each.init, key, name, each.shape)) for name, each in config.parameters().items()
    }
    return accelerator._build_model(config, LazyArrays({**drawn, **_given(config, weights or {})}))


def _given(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> Readers:
    table = config.parameters()
    for name, values in weights.items():
        if name not in table:
            raise ConfigError(f"weights must be of parameters of {config.kind}, got {name}. It has {', '.join(table)}.")
        if np.shape(values) != table[name].shape:
            raise ConfigError(f"{name} must have shape {table[name].shape}, got {np.shape(values)}.")
    return {name: (table[name].shape, partial(np.asarray, values, np.float64)) for name, values in weights.items()}


__all__ = [
    "CONFIGS",
    "PRESETS",
    "Experts",
    "GPTConfig",
    "MLPConfig",
    "ModelConfig",
    "ParamSpec",
    "ResNet9Config",
    "build",
]
