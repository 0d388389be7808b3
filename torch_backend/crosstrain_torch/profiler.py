"""Traces by `torch.profiler`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextlib.contextmanager
def trace(folder: Path, process_index: int) -> Iterator[None]:
    """See `Accelerator.trace`. Every process writes a file of its own name into the same folder."""
    into = folder / "torch"
    into.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as recorded:
        yield
    recorded.export_chrome_trace(str(into / f"process{process_index}.pt.trace.json.gz"))
