"""Models made by a function: split from birth, with the values of a model that was made whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = Path(__file__).parent / "made_worker.py"


def test_a_model_made_by_a_function_is_split_and_has_the_same_values(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path / "found.npz")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = np.load(tmp_path / "found.npz")
    names = [name.removeprefix("whole/") for name in found if name.startswith("whole/")]
    assert names
    for name in names:
        np.testing.assert_array_equal(found[f"made/{name}"], found[f"whole/{name}"])
    assert found["local"].tolist() == [[32, 16], [16, 32]]
    assert found["leaves of the made model on one device"] == 0
    assert found["learns"]
