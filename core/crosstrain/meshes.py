"""`Meshes`: an accelerator's mesh, what lies where on it, and which part of a batch a process loads."""

# mypy: disable-error-code="empty-body"
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from crosstrain.abstract import abstractmethod
from crosstrain.data.placement import Augment, Placement
from crosstrain.data.resident import Resident, as_arrays
from crosstrain.errors import ConfigError, require_spec
from crosstrain.mesh import MeshSpec
from crosstrain.precision import Casting, Precision
from crosstrain.sharding import BATCH_AXES, PIPELINE_AXIS, SEQUENCE_AXIS, ShardingRules

REDUCED_AXES = ("data", "fsdp")
"""Those over which `Precision.reduce_dtype` says how gradients are added up."""


class Meshes:
    """A part of `Accelerator`.

    Attributes:
        device_count: devices of the run, over all processes.
        mesh_sizes: size of every mesh axis, in devices.
        sharding: how parameters are split over the mesh.
        islands: whether each process trains alone, on a mesh of its own devices; `device_count` counts these.
    """

    backend: ClassVar[str]
    precision: Precision
    device_count: int
    mesh_sizes: dict[str, int]
    sharding: ShardingRules
    islands: bool
    process_index: int
    process_count: int
    _wide_integers: ClassVar[bool]
    _mesh_axes: ClassVar[tuple[str, ...]]
    _castings: ClassVar[tuple[Casting, ...]] = ("cast",)
    _batch_part: tuple[tuple[int, ...], int]
    _augment: Augment

    @abstractmethod
    def _build_mesh(self) -> None:
        """Makes the native mesh from `mesh_sizes`; sets `_augment`, which runs transforms on placed batches,
        and `_batch_part`: which parts of a batch are ours, in ascending order, of how many."""

    @abstractmethod
    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Places this process's part of a global batch, split over the data axis, and its sequences over `context`."""

    @abstractmethod
    def _put_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Places whole arrays on every device."""

    def resident(self, source: Any) -> Resident:
        """Puts a source on the devices, for loaders that take their batches from there.

        A batch is then copied as the numbers of its examples: for data that fits beside the model, such as
        CIFAR-10 (150 MB of bytes), and transforms with `transform_on="device"`. The batches are the same. Every device
        gets all of it, but fields of one dimension, such as labels. Several loaders can share it. Arrays that change
        afterwards change nothing here.

        Args:
            source: a dict of arrays, the same on every process.

        Raises:
            DataError: something else, or examples that the context axis splits.
        """
        placement = self._placement()
        placement.require_whole_examples("examples")
        arrays = as_arrays(source)
        fields = {name: values for name, values in arrays.items() if values.ndim > 1}
        return Resident(arrays, self, self._put_whole(placement.convert(fields)))

    def _stack_placer(self) -> Callable[[dict[str, np.ndarray]], dict[str, Any]] | None:
        """What places several batches of one shape, (count, B, ...), for one call that takes them; None for none."""
        return None

    def _apart_placer(self) -> Callable[[dict[str, np.ndarray]], list[dict[str, Any]]] | None:
        """What places them as batches of their own, with less work than one after the other; None for none."""
        return None

    @property
    def _loaded_part(self) -> tuple[tuple[int, ...], int]:
        """Which parts of a batch this process loads, of how many; to an island what it loads is the whole."""
        return ((self.process_index,), self.process_count) if self.islands else self._batch_part

    def _placement(self) -> Placement:
        parts = math.prod(self.mesh_sizes[axis] for axis in BATCH_AXES)
        return Placement(
            part=self._loaded_part[0],
            parts=self._loaded_part[1],
            data_size=parts * (self.process_count if self.islands else 1),
            alone=self.islands,
            sequence_parts=self.mesh_sizes[SEQUENCE_AXIS],
            float_dtype=self.precision.loss_dtype,
            wide_integers=self._wide_integers,
            put=self._put,
            put_stack=self._stack_placer(),
            put_apart=self._apart_placer(),
            augment=self._augment,
        )

    def _fit_mesh(self, mesh: MeshSpec) -> dict[str, int]:
        require_spec("mesh", mesh, MeshSpec, "ct.MeshSpec(fsdp=8)")
        sizes = fit_mesh(mesh, self.device_count, self.backend, self._mesh_axes)
        require_reducible(self.precision, sizes)
        return sizes


def fit_mesh(mesh: MeshSpec, device_count: int, backend: str, axes: tuple[str, ...]) -> dict[str, int]:
    """The size of every axis on an engine that has `axes`.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices, or an axis that the engine does not have.
    """
    sizes = mesh.resolve(device_count)
    unsupported = [name for name, size in sizes.items() if name not in axes and size > 1]
    if unsupported:
        raise ConfigError(
            f"mesh axes other than {', '.join(axes)} must be 1 on the {backend} engine in this "
            f"version, got {mesh.describe()}. Use 1 for {', '.join(unsupported)}."
        )
    if sizes[SEQUENCE_AXIS] > 1 and sizes[PIPELINE_AXIS] > 1:
        raise ConfigError(
            f"one of context and pipeline must be 1 in this version, got {mesh.describe()}. Use fsdp or tensor beside "
            "either of them."
        )
    return sizes


def require_reducible(precision: Precision, sizes: Mapping[str, int]) -> None:
    """Refuses a mesh over which `Precision.reduce_dtype` has no meaning.

    Raises:
        ConfigError: names the axes that are in the way.
    """
    others = [f"{axis}={size}" for axis, size in sizes.items() if size > 1 and axis not in REDUCED_AXES]
    if precision.reduces_narrowly and others:
        raise ConfigError(
            f"mesh axes other than {', '.join(REDUCED_AXES)} must be 1 with reduce_dtype={precision.reduce_dtype!r} "
            f"in this version, got {', '.join(others)}. Use reduce_dtype=None."
        )
