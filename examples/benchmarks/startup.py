"""From the start of a process to its first step: W3 of the rivals' benchmark, with a cold and a warm cache of programs.

    python examples/benchmarks/startup.py

Each time is that of a whole process, imports included, until the first loss is on the host. The first start of each
contestant finds an empty cache, the others what it left there; contestants take turns. Plain loops are given the same
kind of cache as crosstrain uses by itself: JAX's persistent one, and Inductor's.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

HERE = Path(__file__).parent
CONTESTANTS = {
    "jax, raw: flat leaves, donated": ("jax_loops", "raw"),
    "jax, crosstrain": ("crosstrain_loops", "jax"),
    "torch, raw: fused AdamW": ("torch_loops", "fused"),
    "torch, crosstrain": ("crosstrain_loops", "torch"),
    "torch, compiled: raw": ("torch_loops", "compiled"),
    "torch, compiled: crosstrain": ("crosstrain_loops", "torch_compiled"),
}
SCRIPT = """
import importlib, sys
getattr(importlib.import_module("rivals." + sys.argv[1]), sys.argv[2])(sys.argv[3])(1)
"""


def start(place: tuple[str, str], workload: str, cache: Path) -> float:
    """Seconds of one process."""
    own = {"OMP_NUM_THREADS": "2", "XDG_CACHE_HOME": str(cache)}
    if place[0] == "jax_loops":
        own["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    if place[0] == "torch_loops":
        own["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    begun = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *place, workload]
    subprocess.run(command, cwd=HERE, env=os.environ | own, check=True)
    return time.perf_counter() - begun


def main(workload: str = "gpt", starts: int = 6) -> None:
    """Measures and prints.

    Args:
        workload: of the rivals' benchmark.
        starts: of each contestant, the first with an empty cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(starts):
            for index, (name, place) in enumerate(CONTESTANTS.items()):
                seconds[name].append(start(place, workload, Path(folder) / str(index)))
    print("| contestant | first start, s | later starts, s | of the raw loop |\n|---|---|---|---|")
    base = 0.0
    for name, (first, *rest) in seconds.items():
        later = statistics.median(rest) if rest else first
        base = later if "raw" in name else base
        print(f"| {name} | {first:.1f} | {later:.1f} | {later / base:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
