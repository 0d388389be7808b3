"""`ShardingRules`: from the meaning of a dimension to the mesh axes that split it."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from crosstrain.errors import ConfigError
from crosstrain.mesh import AXES

EXPERT_AXIS = "expert"
"""The mesh axis that splits the experts of a mixture, beside the batch."""

BATCH_AXES = ("data", "fsdp", EXPERT_AXIS)
"""The mesh axes whose devices see different examples."""

SEQUENCE_AXIS = "context"
"""The mesh axis that splits the second dimension of a batch."""

PIPELINE_AXIS = "pipeline"
"""The mesh axis whose devices hold different blocks of a model."""

ACTIVATIONS: Mapping[str | None, str | tuple[str, ...]] = MappingProxyType(
    {
        "batch": BATCH_AXES,
        "sequence": SEQUENCE_AXIS,
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "vocab": "tensor",
    }
)
"""Meaning of an activation's dimension -> the mesh axes that split it; any other stays whole."""

DEFAULT_RULES: Mapping[str, str | None] = MappingProxyType(
    {
        "vocab": "tensor",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "experts": "expert",
        "embed": "fsdp",
    }
)
"""Megatron's layout (Shoeybi et al. 2019) on `tensor`, ZeRO-3 (Rajbhandari et al. 2020) on `fsdp`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingRules:
    """How parameters are split over the mesh.

    Attributes:
        rules: logical axis -> the mesh axis that splits it, or None for none; adds to and replaces `DEFAULT_RULES`.
        logical_axes: pattern of canonical names (`*` matches anything) -> the logical axis of each dimension, in the
            canonical layout; None for a dimension without meaning. The first pattern that matches counts. Paired
            models know theirs.
        min_size: parameters with fewer elements are not split over `fsdp`.

    Raises:
        ConfigError: a mesh axis that does not exist, or one that splits the batch only.
    """

    rules: Mapping[str, str | None] = field(default_factory=dict)
    logical_axes: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    min_size: int = 0

    def __post_init__(self) -> None:
        allowed = [axis for axis in AXES if axis in ("fsdp", "tensor", "expert")]
        for logical, axis in self.rules.items():
            if axis is not None and axis not in allowed:
                raise ConfigError(
                    f"a rule must map a logical axis to one of {', '.join(allowed)} or None, got {logical!r}: {axis!r}."
                )

    def mesh_axis(self, logical: str | None) -> str | None:
        """The mesh axis that splits dimensions of this meaning."""
        if logical is None:
            return None
        return self.rules.get(logical, DEFAULT_RULES.get(logical))

    def axes_of(self, name: str, known: Mapping[str, tuple[str | None, ...]]) -> tuple[str | None, ...] | None:
        """Logical axes of a parameter: by pattern, else what its model knows; None when nobody says."""
        for pattern, axes in self.logical_axes.items():
            if fnmatch.fnmatchcase(name, pattern):
                return tuple(axes)
        return known.get(name)
