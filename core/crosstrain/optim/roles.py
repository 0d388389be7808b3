"""What a parameter is, and the check that all optimizer specs share."""

import math
from typing import Literal

from crosstrain.errors import ConfigError

Role = Literal["weight", "bias", "norm", "embedding", "experts"]
"""`experts` is a stack of weights, one for each expert of a mixture."""


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, by its name in a layer: `bias`, or in torch also `bias_ih_l0`, `in_proj_bias`."""
    return name == "bias" or name.startswith("bias_") or name.endswith("_bias")


def require(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuses a number outside [low, high).

    Raises:
        ConfigError: names the number and its range.
    """
    if not low <= value < high:
        bound = f"in [{low}, {high})" if high < math.inf else f"at least {low}"
        raise ConfigError(f"{name} must be {bound}, got {name}={value}.")
