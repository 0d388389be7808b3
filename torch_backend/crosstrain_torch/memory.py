"""Memory of the torch engine: which errors say that there is none left, and what can be given back."""

import torch

_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # on Windows
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised this for want of memory. Its CPU allocator and CUDA libraries raise plain RuntimeErrors."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _MESSAGES)


def free() -> None:
    """Gives the blocks that the caching allocator keeps back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
