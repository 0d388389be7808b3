"""How much host memory an export takes: that of one file, however large the model is."""

import json
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("memory.py")


def test_an_export_holds_one_file_at_a_time(backend: str, tmp_path: Path) -> None:
    command = [sys.executable, str(WORKER), backend, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["params"] > 200e6
    assert found["shards"] > 10
    # The system counts pages that the allocator keeps, up to another file's, and the whole model is a dozen of them.
    assert found["growth"] < 3 * found["largest"]
