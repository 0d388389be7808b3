"""How engines are found: names, what is missing, what is chosen, and engines of third parties. Loads no framework."""

import subprocess
import sys
from pathlib import Path

import pytest

import crosstrain as ct
from crosstrain import backends


def python(code: str, *, missing: tuple[str, ...] = (), path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter in which some modules cannot be found, and `path` can."""
    prefix = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
    if path is not None:
        prefix += f"sys.path.insert(0, {str(path)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", prefix + code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def third_party(tmp_path: Path) -> Path:
    """A folder with an installed distribution that declares an engine `toy` for a framework `toy`."""
    (tmp_path / "toy.py").write_text("")
    (tmp_path / "toy_engine.py").write_text("class ToyAccelerator: ...\n")
    info = tmp_path / "toy_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[crosstrain.backends]\ntoy = toy_engine:ToyAccelerator\n")
    return tmp_path


def test_the_engines_of_this_distribution_are_known_by_their_frameworks() -> None:
    assert {"jax", "torch"} <= set(backends.known())


@pytest.mark.parametrize("name", ["tensorflow", "", "JAX"])
def test_an_unknown_engine_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ct.BackendError, match=f"backend must be one of jax, torch.*, got backend='{name}'"):
        ct.Accelerator(name)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_missing_framework_says_what_was_asked_for_and_what_to_install(backend: str) -> None:
    result = python(f"import crosstrain; crosstrain.Accelerator({backend!r})", missing=(backend,))
    assert result.stderr.splitlines()[-1] == (
        f"crosstrain.errors.BackendError: backend must be installed, got backend={backend!r} but there is no module "
        f"{backend!r}. Run: pip install 'crosstrain[{backend}]'."
    )


def test_what_is_missing_can_be_caught_as_an_import_error() -> None:
    code = "import crosstrain\ntry: crosstrain.Accelerator('torch')\nexcept ImportError: print('caught')"
    assert python(code, missing=("torch",)).stdout.strip() == "caught"


def test_finding_engines_imports_none() -> None:
    code = "from crosstrain import backends; backends.installed(); print({'jax', 'flax', 'torch'} & set(sys.modules))"
    assert python(code).stdout.strip() == "set()"


def test_no_engine_at_all_says_what_to_install() -> None:
    result = python("import crosstrain; crosstrain.Accelerator()", missing=("jax", "torch"))
    assert "found none. Run: pip install 'crosstrain[jax]' or 'crosstrain[torch]'." in result.stderr


def test_a_third_party_adds_an_engine_by_an_entry_point(third_party: Path) -> None:
    code = "from crosstrain import backends; print(*backends.known(), backends.load('toy').__name__)"
    assert python(code, path=third_party).stdout.split() == ["jax", "torch", "toy", "ToyAccelerator"]


@pytest.mark.parametrize(
    ("missing", "chosen"),
    [(("jax", "torch"), "toy"), (("jax", "torch", "toy"), None)],
)
def test_without_a_name_the_engine_that_is_installed_is_taken_and_logged(
    third_party: Path, missing: tuple[str, ...], chosen: str | None
) -> None:
    result = python("from crosstrain import backends; backends.load(None)", missing=missing, path=third_party)
    log = f"using the {chosen} engine (installed: {chosen}); name one to choose: Accelerator('{chosen}')"
    assert (log in result.stderr) == (chosen is not None)
    assert (result.returncode == 0) == (chosen is not None)


def test_an_engine_whose_own_imports_are_missing_names_the_module(third_party: Path) -> None:
    (third_party / "toy_engine.py").write_text("import toy_kernels\n")
    result = python("from crosstrain import backends; backends.load('toy')", path=third_party)
    assert "backend 'toy' needs the module 'toy_kernels', which is not installed" in result.stderr
