"""Native checkpoints of the torch engine: torch.distributed.checkpoint, written in the background from copies."""

import contextlib
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor

from crosstrain_torch.shards import local, wrap
from crosstrain_torch.state import TorchState

Tensors = dict[str, torch.Tensor]


class TorchWriter:
    """See `crosstrain.checkpoint.Writer`.

    On the CPU weights and moments are copied while the next forward and backward pass runs; only the update after it
    waits for the copy. Writing has a process group of its own, so that its collectives never meet those of training.
    """

    def __init__(self, group: Any) -> None:
        self._group = None if group is None else dist.new_group(backend="gloo")
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="crosstrain-checkpoint")
        self._copies: Tensors = {}
        self._written: Future[None] | None = None

    def prepare(self, state: TorchState) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        changing, steady = state.tensors()
        self._copies = {name: self._copy_of(name, tensor) for name, tensor in (changing | steady).items()}
        # The operating system hands out memory when it is first written to; pinned memory is there at once.
        self._threads.submit(_touch, [self._copies[name] for name, tensor in steady.items() if not tensor.is_cuda])

    def start(self, state: TorchState, folder: Path) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        self.wait()
        changing, steady = state.tensors()
        copies = {name: self._copy_of(name, tensor) for name, tensor in (changing | steady).items()}
        _copy(copies, changing)
        if any(tensor.is_cuda for tensor in steady.values()):
            _copy(copies, steady)
        else:
            state.reading = self._threads.submit(_copy, copies, steady)
        self._copies = copies
        self._written = self._threads.submit(self._write, copies, folder)

    def wait(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """See `crosstrain.checkpoint.Writer`."""
        try:
            self.wait()
        finally:
            self._threads.shutdown()

    def _write(self, copies: Tensors, folder: Path) -> None:
        with _own_errors(), _quiet():
            # From one thread: torch 2.13 loses what goes wrong in any other, such as a disk that is full.
            dcp.save(dict(copies), checkpoint_id=folder, process_group=self._group, no_dist=self._group is None)

    def _copy_of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        old = self._copies.get(name)
        if old is not None and _form(old) == _form(tensor):
            return old
        here = local(tensor)
        return wrap(torch.empty(here.shape, dtype=here.dtype, pin_memory=here.is_cuda), tensor)


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    placements = tensor.placements if isinstance(tensor, DTensor) else None
    return tensor.shape, local(tensor).shape, tensor.dtype, placements


def read(state: TorchState, folder: Path, step: int, group: Any) -> None:
    """Replaces what a state holds by what `TorchWriter` wrote of one like it."""
    changing, steady = state.tensors()
    tensors = changing | steady
    found = {n: wrap(torch.empty(local(each).shape, dtype=each.dtype), each) for n, each in tensors.items()}
    with _own_errors(), _quiet():
        dcp.load(dict(found), checkpoint_id=folder, process_group=group, no_dist=group is None)
    state.set_tensors(found, step)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """DCP wraps what went wrong on any process, and raises that on all, in a type that `except Exception` misses."""
    try:
        yield
    except dcp.api.CheckpointException as error:
        rank, (cause, _) = min(error.failures.items(), key=lambda item: item[0])
        raise OSError(f"process {rank}: {type(cause).__name__}: {cause}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns of a single process, which was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _touch(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        local(tensor).zero_()


@torch.no_grad()
def _copy(copies: Tensors, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        local(copies[name]).copy_(local(tensor))
