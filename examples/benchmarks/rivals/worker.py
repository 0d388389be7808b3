"""One contestant in a process of its own: `python -m rivals.worker mlp jax_loops:raw`.

It prints `ready` when its step is compiled; then for each line on standard input, a number of steps, it prints the
seconds that they took, the last loss, and the process's highest memory so far in MB.
"""

import importlib
import json
import resource
import sys
import time

from rivals.workloads import WORKLOADS

WARM = 20


def main() -> None:
    """Measures as told."""
    workload, contestant = sys.argv[1:]
    module, function = contestant.split(":")
    block = getattr(importlib.import_module(f"rivals.{module}"), function)(workload)
    block(WARM if WORKLOADS[workload].unit == "us" else 2)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        loss = block(int(line))
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "loss": loss, "memory_mb": memory}), flush=True)


if __name__ == "__main__":
    main()
