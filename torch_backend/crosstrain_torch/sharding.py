"""Devices and processes of the torch engine: one device per process, and the mesh that they make up."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from crosstrain.errors import ConfigError, ModelError
from crosstrain.sharding import BATCH_AXES, EXPERT_AXIS, PIPELINE_AXIS, SEQUENCE_AXIS


def choose_device(platform: str | None) -> torch.device:
    """This process's device: its own GPU where there is one, else the CPU.

    Raises:
        ConfigError: the platform is not there.
    """
    if platform == "tpu":
        raise ConfigError("platform must be cpu or gpu on the torch engine, got platform='tpu'. Use the jax engine.")
    if platform == "gpu" and not torch.cuda.is_available():
        raise ConfigError("platform must be there, got platform='gpu' but torch finds no CUDA device. Use 'cpu'.")
    if platform == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def join_processes(device: torch.device) -> dist.ProcessGroup | None:
    """The group of all processes that torchrun started, joined if need be; None for a single process."""
    if not dist.is_available():
        return None
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return None
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.group.WORLD if dist.get_world_size() > 1 else None


@dataclass(kw_only=True, slots=True)
class SequencePart:
    """Which part of every sequence a process holds.

    Attributes:
        group: the processes that hold the others of the same examples.
        index: positions `index * T` to `(index + 1) * T` are here, where T is the length that a model is given.
        parts: how many there are.
        lengths: of the fields of the batch that a step was given last; empty before.
    """

    group: dist.ProcessGroup
    index: int
    parts: int
    lengths: frozenset[int] = frozenset()

    def require_whole(self, length: int) -> None:
        """Refuses a part that a loss function has cut: its positions would no longer be those of the sequence.

        Raises:
            ModelError: gives the lengths.
        """
        if self.lengths and length not in self.lengths:
            raise ModelError(
                f"a model must be given whole parts of sequences, got {length} positions where the batch has "
                f"{', '.join(map(str, sorted(self.lengths)))} on each process. Cut or shift in the data, not in the "
                "loss function."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPart:
    """The processes that share the experts of a mixture out among themselves.

    Attributes:
        group: of as many neighbouring experts each, in its order.
        parts: how many there are.
    """

    group: dist.ProcessGroup
    parts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Which stage of a pipeline a process is.

    Attributes:
        group: the processes that are the stages of the same examples, in their order.
        index: which one is here.
        count: how many there are.
    """

    group: dist.ProcessGroup
    index: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether the inputs of the model go in here."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether the outputs of the model come out here."""
        return self.index == self.count - 1

    def share(self, blocks: int) -> range:
        """Which of so many blocks are here."""
        each = blocks // self.count
        return range(self.index * each, (self.index + 1) * each)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """The processes of a run along the axes of its mesh, the last axis the fastest.

    Attributes:
        sizes: of every axis.
        native: torch's mesh of the axes that are larger than 1; None where they split the batch only.
        world: the group of all processes; None for a single one.
        batch: the group of those that see different examples, and hold the same parts of tensors; None for one part.
        batch_part: which part of a batch is ours, of how many.
        losses: the group of those that see different examples or positions; None where there is one.
        sequence: which part of every sequence is ours; None for whole ones.
        stage: which stage of a pipeline is here; None where there is none.
        experts: those that share experts out among themselves; None where each has all of them.
        same_experts: the group of those that see different examples or positions and hold the same experts; None where
            there is one.
        peers: the group of those that hold parts or copies of the same parameters: of all, or of the same stage.
    """

    sizes: Mapping[str, int]
    native: DeviceMesh | None
    world: dist.ProcessGroup | None
    batch: dist.ProcessGroup | None
    batch_part: tuple[int, int]
    losses: dist.ProcessGroup | None
    sequence: SequencePart | None = None
    stage: Stage | None = None
    experts: ExpertPart | None = None
    same_experts: dist.ProcessGroup | None = None
    peers: dist.ProcessGroup | None = None

    def along(self, *axes: str) -> DeviceMesh | None:
        """The mesh of those of these axes that are larger than 1; None where none is."""
        wide = tuple(axis for axis in axes if self.sizes[axis] > 1)
        return self.native[wide] if self.native is not None and wide else None

    def index(self, axis: str) -> int:
        """Where this process stands along an axis."""
        mesh = self.along(axis)
        return 0 if mesh is None else mesh.get_local_rank()

    def own_positions(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of each field of a batch, the part of its second dimension, if it has one, that this process holds."""
        if self.sequence is None:
            return batch
        parts, index = self.sequence.parts, self.sequence.index

        def own(values: np.ndarray) -> np.ndarray:
            length = values.shape[1] // parts
            return values[:, index * length : (index + 1) * length]

        return {name: own(values) if values.ndim > 1 else values for name, values in batch.items()}


def build_mesh(sizes: Mapping[str, int], world: dist.ProcessGroup | None, device: torch.device) -> Mesh:
    """The mesh of all processes; every one of them calls this.

    Raises:
        ConfigError: axes that do not go together.
    """
    wide = {axis: size for axis, size in sizes.items() if size > 1}
    if all(axis == "data" for axis in wide):
        part = (0, 1) if world is None else (dist.get_rank(world), dist.get_world_size(world))
        return Mesh(sizes=sizes, native=None, world=world, batch=world, batch_part=part, losses=world, peers=world)
    _require_together(wide)
    native = init_device_mesh(device.type, tuple(wide.values()), mesh_dim_names=tuple(wide))
    split = tuple(axis for axis in wide if axis in BATCH_AXES)
    index = 0
    for axis in split:
        index = index * sizes[axis] + native.get_local_rank(axis)
    batch = losses = _group(native, split, "batch")
    sequence = stage = experts = same = None
    peers = world
    if SEQUENCE_AXIS in wide:
        context = native[SEQUENCE_AXIS]
        sequence = SequencePart(group=context.get_group(), index=context.get_local_rank(), parts=context.size())
        losses = _group(native, tuple(axis for axis in wide if axis in split or axis == SEQUENCE_AXIS), "losses")
    if EXPERT_AXIS in wide:
        expert = native[EXPERT_AXIS]
        experts = ExpertPart(group=expert.get_group(), parts=expert.size())
        others = tuple(axis for axis in wide if axis in (*split, SEQUENCE_AXIS) and axis != EXPERT_AXIS)
        same = _group(native, others, "same_experts")
    if PIPELINE_AXIS in wide:
        pipeline = native[PIPELINE_AXIS]
        stage = Stage(group=pipeline.get_group(), index=pipeline.get_local_rank(), count=pipeline.size())
        alike = tuple(axis for axis in wide if axis != PIPELINE_AXIS)
        peers = batch if alike == split else _group(native, alike, "peers")
    return Mesh(
        sizes=sizes,
        native=native,
        world=world,
        batch=batch,
        batch_part=(index, math.prod(sizes[axis] for axis in split)),
        losses=losses,
        sequence=sequence,
        stage=stage,
        experts=experts,
        same_experts=same,
        peers=peers,
    )


def _require_together(wide: Mapping[str, int]) -> None:
    alone = [axis for axis in wide if axis not in ("data", "fsdp", "tensor", PIPELINE_AXIS)]
    if PIPELINE_AXIS in wide and alone:
        given = ", ".join(f"{axis}={size}" for axis, size in wide.items())
        raise ConfigError(
            f"pipeline goes together with data, fsdp and tensor on the torch engine in this version, got {given}. "
            f"Use 1 for {', '.join(alone)}, or for pipeline."
        )


def _group(native: DeviceMesh, axes: tuple[str, ...], name: str) -> dist.ProcessGroup | None:
    if not axes:
        return None
    mesh = native[axes]
    return (mesh if len(axes) == 1 else mesh._flatten(name)).get_group()
