"""Every Python block of docs/checkpoints.md runs, in order, and so do its commands; each engine hands over."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_blocks_of_the_checkpoint_docs_run(backend, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    names = {}
    (other,) = {"jax", "torch"} - {backend}
    engines = {"torch": backend, "jax": other}
    for block in blocks:
        exec(re.sub(r'Accelerator\("(\w+)"\)', lambda found: f'Accelerator("{engines[found[1]]}")', block), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("46 MLPConfig(")
    assert json.loads(Path("runs/handover/checkpoint.json").read_text())["config"] == {"note": "after two epochs"}
    assert names["state"].step == 2 * len(names["loader"])
    names["accelerator"].export(names["trainer"].state, "runs/other")
    commands = re.findall(r"^crosstrain (.*?)(?:  +#.*)?$", DOCS.read_text(), flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        program = ["-m", "crosstrain", *command.split()]
        done = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
