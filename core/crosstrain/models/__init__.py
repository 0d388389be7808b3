"""Paired models: one config, one list of canonical parameters, a native module on each engine."""

from functools import partial
from typing import Any

from crosstrain.accelerator import Accelerator
from crosstrain.errors import ConfigError
from crosstrain.models.gpt import GPTConfig
from crosstrain.models.mlp import MLPConfig
from crosstrain.models.presets import PRESETS
from crosstrain.models.resnet9 import ResNet9Config
from crosstrain.models.spec import ModelConfig, ParamSpec
from crosstrain.snapshot import LazyArrays

CONFIGS: dict[str, type[ModelConfig]] = {config.kind: config for config in (MLPConfig, ResNet9Config, GPTConfig)}


def build(name: str, config: ModelConfig | None, accelerator: Accelerator, *, seed: int | None = None) -> Any:
    """A paired model as a native module of the accelerator's engine.

    Args:
        name: `mlp`, `resnet9` or `gpt`.
        config: None takes the config's defaults.
        accelerator: decides the engine, and the seed by default.
        seed: of the initial weights, which are the same on both engines.

    Returns:
        A `flax.nnx.Module` or a `torch.nn.Module`.

    Raises:
        ConfigError: an unknown name, or a config of another model.
    """
    if name not in CONFIGS:
        raise ConfigError(f"model must be one of {', '.join(CONFIGS)}, got {name!r}.")
    config = CONFIGS[name]() if config is None else config
    if type(config) is not CONFIGS[name]:
        raise ConfigError(f"config must be a {CONFIGS[name].__name__} for model {name!r}, got {type(config).__name__}.")
    key = accelerator.seed if seed is None else seed
    # Each is made when it is asked for: a model need not fit into host memory.
    weights = LazyArrays(
        {name: (spec.shape, partial(spec.init, key, name, spec.shape)) for name, spec in config.parameters().items()}
    )
    return accelerator._build_model(config, weights)


__all__ = ["CONFIGS", "PRESETS", "GPTConfig", "MLPConfig", "ModelConfig", "ParamSpec", "ResNet9Config", "build"]
