"""Paired models under names that a command line can say."""

from collections.abc import Mapping
from types import MappingProxyType

from crosstrain.models.gpt import GPTConfig
from crosstrain.models.mlp import MLPConfig
from crosstrain.models.resnet9 import ResNet9Config
from crosstrain.models.spec import ModelConfig

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "mlp": MLPConfig(),
        "resnet9": ResNet9Config(),
        "gpt": GPTConfig(),
        "llama3-8b": GPTConfig(
            vocab_size=128_256,
            dim=4096,
            n_layers=32,
            n_heads=32,
            n_kv_heads=8,
            mlp_dim=14_336,
            max_seq_len=8192,
            rope_theta=500_000.0,
        ),
    }
)
"""Name -> config. Llama 3 8B as its technical report gives it (Grattafiori et al. 2024, table 3)."""
