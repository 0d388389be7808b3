"""Devices, mesh and shardings of the JAX engine."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from crosstrain.errors import ConfigError


def choose_devices(platform: str | None) -> list[jax.Device]:
    """All devices of the run, over all processes.

    Raises:
        ConfigError: the platform is not there.
    """
    try:
        return jax.devices(platform)
    except RuntimeError as error:
        there = jax.default_backend()
        raise ConfigError(
            f"platform must be there, got platform={platform!r} but JAX finds {there}. Use platform={there!r}."
        ) from error


def build_mesh(devices: list[jax.Device], sizes: Mapping[str, int]) -> Mesh:
    """The mesh with every axis of `MeshSpec`, most of size 1; the compiler chooses shardings inside the step."""
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First dimension split over the data axis."""
    return NamedSharding(mesh, P("data"))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a global batch on its devices."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, values) for name, values in batch.items()}
