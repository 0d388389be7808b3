"""Clipping of gradients: by their global norm, or element by element."""

from dataclasses import dataclass

from crosstrain.errors import ConfigError, is_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class Clipping:
    """Limits on the gradient g of the whole global batch, all parameters together; at most one of them.

    Attributes:
        norm: g min(1, norm / ||g||) (Pascanu et al. 2013), without an epsilon.
        value: min(max(g, -value), value), element by element.

    Raises:
        ConfigError: a limit that is not positive, or both: which comes first would be a definition of its own.
    """

    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("clip_norm", self.norm), ("clip_value", self.value)):
            if limit is not None and not is_positive(limit):
                raise ConfigError(f"{name} must be positive or None, got {name}={limit!r}.")
        if self.norm is not None and self.value is not None:
            raise ConfigError(
                "only one of clip_norm and clip_value must be given, "
                f"got clip_norm={self.norm} and clip_value={self.value}. Leave one of them out."
            )
