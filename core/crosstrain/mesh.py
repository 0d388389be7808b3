"""`MeshSpec`: how many devices each mesh axis takes. What, never how: the engines build the mesh."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from crosstrain.errors import ConfigError

AXES = ("data", "fsdp", "tensor", "context", "expert", "pipeline")
SLICE_AXES = ("data", "pipeline", "fsdp")
"""Those that may cross the slow network between slices, the one that minds it least first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshSpec:
    """Sizes of the mesh axes, in devices.

    Args:
        data: replicas that see different examples; -1 takes all devices the other axes leave.
        fsdp: shards of parameters and optimizer state; also splits the batch.
        tensor: shards of single matrices.
        context: shards of the sequence.
        expert: shards of the experts of a mixture.
        pipeline: stages.

    Raises:
        ConfigError: a size that is neither positive nor -1, or more than one -1.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name, size in self._sizes().items():
            if size != -1 and size < 1:
                raise ConfigError(
                    f"mesh axis {name} must be a positive number of devices or -1 (the rest), got {name}={size}."
                )
        open_axes = [name for name, size in self._sizes().items() if size == -1]
        if len(open_axes) > 1:
            raise ConfigError(
                f"at most one mesh axis may be -1 (the rest), got {', '.join(open_axes)}. "
                "Give all but one of them a size."
            )

    def resolve(self, device_count: int) -> dict[str, int]:
        """The size of every axis on `device_count` devices, in the order of `AXES`.

        Raises:
            ConfigError: the axes do not multiply to the number of devices.
        """
        sizes = self._sizes()
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if -1 in sizes.values():
            if device_count % fixed:
                raise ConfigError(
                    f"the fixed mesh axes must divide the device count, got {self.describe()} "
                    f"({fixed} devices) on {device_count}. Use sizes whose product divides {device_count}."
                )
            return {name: device_count // fixed if size == -1 else size for name, size in sizes.items()}
        if fixed != device_count:
            raise ConfigError(
                f"the mesh axes must multiply to the device count, got {self.describe()} "
                f"({fixed} devices) on {device_count}. Set one axis to -1 to take what is left."
            )
        return sizes

    def describe(self) -> str:
        """The axes that are not 1, as `data=-1, fsdp=4`."""
        named = [f"{name}={size}" for name, size in self._sizes().items() if size != 1]
        return ", ".join(named) or "data=1"

    def _sizes(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def over_slices(sizes: Mapping[str, int], slices: int) -> dict[str, int]:
    """Over how many slices each axis of `SLICE_AXES` extends: `data` as far as it goes, then the next one.

    Args:
        sizes: of every axis.
        slices: groups of devices with fast links inside, and a slow network between them.

    Raises:
        ConfigError: the slices do not divide these axes.
    """
    found, left = {}, slices
    for axis in SLICE_AXES:
        found[axis] = math.gcd(sizes[axis], left)
        left //= found[axis]
    if left > 1:
        given = ", ".join(f"{axis}={sizes[axis]}" for axis in SLICE_AXES)
        raise ConfigError(
            f"{', '.join(SLICE_AXES)} must share the {slices} slices among them, got {given}. Use a multiple of "
            f"{slices} for data: its exchanges, once a step, are what the network between slices can bear."
        )
    return found
