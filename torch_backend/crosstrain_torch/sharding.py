"""Devices and processes of the torch engine: one device per process, one process group for the data axis."""

import os

import torch
import torch.distributed as dist

from crosstrain.errors import ConfigError


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
