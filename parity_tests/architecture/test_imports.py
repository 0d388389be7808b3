"""What an import pulls in, proven in fresh interpreters; and each engine at work with the other not importable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"jax": ("jax", "jaxlib", "flax", "optax"), "torch": ("torch",)}
OTHER = {"jax": "torch", "torch": "jax"}

TRAIN = """
import numpy as np, crosstrain as ct
accelerator = ct.Accelerator()
model = ct.models.build("mlp", ct.models.MLPConfig(in_features=4, hidden=(8,), out_features=2), accelerator)
state = accelerator.prepare(model, ct.adamw(1e-2))
step = accelerator.train_step(lambda m, b, ops: ops.cross_entropy(m(b["x"]), b["y"]))
loader = accelerator.loader({"x": np.ones((6, 4)), "y": np.zeros(6, int)}, batch_size=4)
losses = [step(state, batch)["loss"] for _ in range(5) for batch in loader]
assert losses[-1] < losses[0]
print(accelerator.backend)
"""


def python(code: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter in which some modules are not installed."""
    block = f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in {blocked!r} else real(name, *rest)
"""
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, timeout=300, check=False
    )


def test_importing_core_loads_no_framework() -> None:
    every = [name for names in FRAMEWORKS.values() for name in names]
    result = python(f"import sys, crosstrain; print([name for name in {every} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_core_is_quick() -> None:
    """It takes a small multiple of what NumPy takes, which it needs: under 0.2 s where NumPy 2.5 takes 0.04 s."""
    # Processor time, against that of NumPy in the same process, since a busy machine slows both.
    code = (
        "import time; now = time.process_time; a = now(); import numpy; b = now(); import crosstrain; "
        "print(now() - a, b - a)"
    )
    times = [[float(each) for each in python(code).stdout.split()] for _ in range(7)]
    assert min(whole for whole, _ in times) < 8 * min(alone for _, alone in times)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_an_engine_trains_where_the_other_is_not_installed(backend: str) -> None:
    result = python(TRAIN, blocked=FRAMEWORKS[OTHER[backend]])
    assert result.stdout.strip() == backend, result.stderr
    assert f"using the {backend} engine (installed: {backend})" in result.stderr


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_missing_engine_says_what_to_install(backend: str) -> None:
    result = python(f"import crosstrain as ct; ct.Accelerator({backend!r})", blocked=FRAMEWORKS[backend])
    assert f"pip install 'crosstrain[{backend}]'" in result.stderr.splitlines()[-1]


def test_a_missing_part_of_an_engine_says_what_to_install() -> None:
    result = python("import crosstrain as ct; ct.Accelerator('jax')", blocked=("flax",))
    last = result.stderr.splitlines()[-1]
    assert "needs the module 'flax'" in last
    assert "pip install 'crosstrain[jax]'" in last


def test_no_engine_at_all() -> None:
    result = python("import crosstrain as ct; ct.Accelerator()", blocked=("jax", "torch"))
    assert "an engine must be installed, found none" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("core/crosstrain", {"jax", "jaxlib", "flax", "optax", "orbax", "torch", "crosstrain_jax", "crosstrain_torch"}),
        ("jax_backend/crosstrain_jax", {"torch", "crosstrain_torch"}),
        ("torch_backend/crosstrain_torch", {"jax", "jaxlib", "flax", "optax", "orbax", "crosstrain_jax"}),
    ],
)
def test_imports_inside_functions_keep_the_rules_too(folder: str, forbidden: set[str]) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found = {name.partition(".")[0] for name in names} & forbidden
            assert not found, f"{path}:{node.lineno} imports {found}"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_conformance_holds_where_the_other_engine_is_not_installed(backend: str) -> None:
    """The trainer's part of the suite; the whole suite runs the same way."""
    blocked = FRAMEWORKS[OTHER[backend]]
    arguments = ["parity_tests/conformance/test_trainer.py", "--backends", backend, "-q", "-p", "no:cacheprovider"]
    code = f"""
import os, sys, pytest
os.chdir({str(ROOT)!r})
sys.exit(pytest.main({arguments!r}))
"""
    result = python(code, blocked=blocked)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
