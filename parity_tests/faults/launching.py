"""Starts a part of a run, `part.py`, with some processes, and reads what each of them wrote."""

import json
from pathlib import Path
from typing import Any

from parity_tests import starting

WORKER = Path(__file__).with_name("part.py")
# A process that waits for one that does not come is a failure, not a slow test.
TIMEOUT_S = 150


def launch(backend: str, scenario: str, folder: Path, *, processes: int, devices: int = 1, **options: Any) -> list[Any]:
    """What each process of a part returned; `options` are the scenario's, and `devices` those of each JAX process."""
    job = {"backend": backend, "scenario": scenario, "folder": str(folder), "devices": devices, "options": options}
    starting.run(*starting.commands(backend, processes, WORKER, json.dumps(job)), timeout_s=TIMEOUT_S)
    return [json.loads((folder / f"{scenario}-{index}.json").read_text()) for index in range(processes)]
