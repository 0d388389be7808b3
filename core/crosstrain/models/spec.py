"""What a paired model is: a config that lists its parameters by canonical name. The engines build the layers."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from crosstrain.errors import ConfigError, require_count
from crosstrain.init import Init

Role = Literal["weight", "bias", "norm", "embedding", "experts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamSpec:
    """One parameter of a paired model.

    Attributes:
        shape: canonical (torch, safetensors) layout: Linear (out, in), Conv (out, in, height, width).
        axes: the meaning of each dimension, for the sharding plan.
        init: how it starts.
        role: what weight decay masks and similar rules go by.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Init
    role: Role

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape):
            raise ConfigError(f"axes must name every dimension, got axes={self.axes} for shape {self.shape}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """A sequence of equal blocks: what each returns is the first argument of the next.

    Attributes:
        prefix: canonical name of the sequence; its blocks are `PREFIX.0` and so on.
        count: blocks.
    """

    prefix: str
    count: int

    def index(self, name: str) -> int | None:
        """Which block a parameter belongs to; None when it is outside of them."""
        if not name.startswith(f"{self.prefix}."):
            return None
        return int(name.removeprefix(f"{self.prefix}.").partition(".")[0])


class ModelConfig(abc.ABC):
    """Base of the paired models' configs: frozen dataclasses, the same for both engines."""

    kind: ClassVar[str]
    __slots__ = ()

    @abc.abstractmethod
    def parameters(self) -> dict[str, ParamSpec]:
        """Canonical name -> parameter, in the order of the forward pass."""

    def units(self) -> dict[str, int]:
        """Logical axis -> into how many parts it may be cut, where that is fewer than its elements."""
        return {}

    def blocks(self) -> Blocks | None:
        """The blocks that `pipeline` may cut into stages; None where a model has no such sequence."""
        return None

    def require_mesh(self, mesh: Mapping[str, int]) -> None:
        """Refuses axes of a mesh that the model does not go over; all of them fit unless a config says otherwise.

        Raises:
            ConfigError: names the axis.
        """
        return

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(spec.shape)) for spec in self.parameters().values())

    def initial_weights(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values of all parameters, float64, canonical layout: a function of (seed, name) only."""
        return {name: spec.init(seed, name, spec.shape) for name, spec in self.parameters().items()}


def require_positive(config: ModelConfig, *names: str) -> None:
    """Refuses sizes below 1.

    Raises:
        ConfigError: names the field and its value.
    """
    for name in names:
        require_count(name, getattr(config, name))


def built_config(model: Any, kinds: Mapping[str, Any]) -> ModelConfig | None:
    """The config of a native model that an engine made from it; None for any other.

    Args:
        model: native.
        kinds: kind -> the engine's class.
    """
    config = getattr(model, "config", None)
    return config if isinstance(config, ModelConfig) and type(model) is kinds.get(config.kind) else None


def require_rate(config: ModelConfig, name: str) -> None:
    """Refuses a dropout rate outside [0, 1).

    Raises:
        ConfigError: names the field and its value.
    """
    value = getattr(config, name)
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1), got {name}={value}.")


__all__ = ["Blocks", "Init", "ModelConfig", "ParamSpec", "Role", "built_config", "require_positive", "require_rate"]
