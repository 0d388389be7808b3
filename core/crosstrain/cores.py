"""How many CPU cores there are for this process."""

import os


def usable_cores() -> int:
    """Cores that this process may run on: what a scheduler (Slurm, `taskset`) leaves of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
