"""Traces by `jax.profiler`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


@contextlib.contextmanager
def trace(folder: Path, process_index: int) -> Iterator[None]:
    """See `Accelerator.trace`. Every process writes a file of its own name into the same folder."""
    with jax.profiler.trace(folder / "jax"):
        yield
