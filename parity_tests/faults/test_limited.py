"""Less memory than the batch wants, by the system's own limit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("limited.py")


@pytest.mark.slow
def test_a_batch_is_found_under_the_limit_of_the_system(backend: str) -> None:
    command = [sys.executable, str(WORKER), backend]
    found = [
        json.loads(subprocess.run([*command, str(room)], check=True, capture_output=True, text=True).stdout)
        for room in (200_000_000, 4_000_000_000)
    ]
    assert found[0]["tried"][:2] == [32768, 16384]
    assert found[1]["tried"] == [32768]
    # Of a batch whose sums are added in another order.
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
