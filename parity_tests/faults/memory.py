"""Host memory while a model is exported: `memory.py BACKEND FOLDER` prints bytes, as JSON."""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.checkpoint.portable import export

WIDTH, LAYERS = 2048, 12
SHARD_BYTES = 20_000_000
STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def bytes_of(field: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def growth_of(work: Any) -> int:
    """How far resident memory rises above what it was, at its peak."""
    # Memory that was freed, but is still resident, would hide what grows.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    REFS.write_text("5")
    before = bytes_of("VmRSS")
    work()
    return bytes_of("VmHWM") - before


def main(backend: str, folder: str) -> None:
    accelerator = ct.Accelerator(backend)
    config = ct.models.MLPConfig(in_features=64, hidden=(WIDTH,) * (LAYERS + 1))
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator))
    # What libraries and the first use of files take does not grow with the model.
    small = ct.models.build("mlp", ct.models.MLPConfig(hidden=(8,)), accelerator)
    export(accelerator, accelerator.prepare(small), Path(folder) / "small")
    params = sum(4 * int(np.prod(shape)) for shape in state.view().shapes().values())
    growth = growth_of(lambda: export(accelerator, state, Path(folder) / "portable", shard_bytes=SHARD_BYTES))
    shards = [path.stat().st_size for path in (Path(folder) / "portable").glob("*.safetensors")]
    print(json.dumps({"params": params, "largest": max(shards), "shards": len(shards), "growth": growth}))


if __name__ == "__main__":
    main(*sys.argv[1:])
