"""Between the devices and the host: tensors by canonical name, and the states of torch's generators."""

import functools
from collections.abc import Mapping
from functools import partial
from typing import Protocol

import numpy as np
import torch

from crosstrain.data.sources import as_array
from crosstrain.data.stacks import unstacked
from crosstrain.snapshot import LazyArrays
from crosstrain_torch.shards import local, part, whole


class Gather(Protocol):
    """Canonical name and what this process holds -> the whole tensor."""

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Called by every process, for the same names in the same order."""
        ...


def lazily(tensors: Mapping[str, torch.Tensor], gather: Gather) -> LazyArrays:
    """Tensors by canonical name, put together and copied to the host when asked for."""

    def read(name: str, tensor: torch.Tensor) -> np.ndarray:
        return to_numpy(gather(name, tensor))

    return LazyArrays({name: (tuple(each.shape), partial(read, name, each)) for name, each in tensors.items()})


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the whole tensor on the host; bfloat16, which NumPy lacks, as float32.

    A collective where the tensor is split over processes.
    """
    tensor = whole(tensor)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy(), order="C")


def from_numpy(values: np.ndarray) -> torch.Tensor:
    """The array as a tensor: the same memory where torch takes it, which is writable and in order."""
    return torch.from_numpy(_usable(values))


def _usable(values: np.ndarray) -> np.ndarray:
    fits = values.flags.c_contiguous and values.flags.writeable
    return values if fits else np.require(values, requirements=["C", "W"])


def tensors_of(batches: Mapping[str, np.ndarray]) -> list[dict[str, torch.Tensor]]:
    """The rows of arrays of shape (count, B, ...), each a dict of tensors in the same memory."""
    return unstacked({name: map(torch.from_numpy, _usable(values)) for name, values in batches.items()})


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def copy_beside(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copies to a CUDA device, which go on while it computes what it was sent before.

    They run on a stream of their own, from memory that does not move; what the device is sent from here on waits.
    """
    compute, beside = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(beside):
        copies = {name: each.pin_memory().to(device, non_blocking=True) for name, each in tensors.items()}
    compute.wait_stream(beside)
    for each in copies.values():
        each.record_stream(compute)  # whose work it must outlive
    return copies


@torch.no_grad()
def copy_into(targets: Mapping[str, torch.Tensor], values: Mapping[str, np.ndarray]) -> None:
    """Writes whole arrays of the host into tensors of the same names, one by one; the meta device takes none."""
    for name, target in targets.items():
        if target.is_meta:
            continue
        local(target).copy_(part(from_numpy(as_array(values[name])), target))


def generators(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a user's own layers draw from."""
    states = {"generator.cpu": torch.get_rng_state()}
    return states | ({"generator.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_generators(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts back what `generators` gave, as far as it is there."""
    if "generator.cpu" in states:
        torch.set_rng_state(states["generator.cpu"])
    if "generator.cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["generator.cuda"], device)
