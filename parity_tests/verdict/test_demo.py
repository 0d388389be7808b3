"""The demo's verdict: what makes it fail, what it writes; and the command line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import crosstrain as ct
from crosstrain.demo import bytes_recipe, demo, digits_recipe
from crosstrain.parity import Comparison, Trace, accuracy_limit, record, relative_difference
from crosstrain.parity.report import write
from crosstrain.parity.tables import comparison_view


def trace(backend: str, precision: str = "fp32", seed: int = 0, accuracy: float = 0.9, **changes: object) -> Trace:
    loss = np.linspace(2.0, 0.1, 30)
    values = {"loss": loss, "grad_norm": loss / 2, "evaluation": {"loss": 0.1, "accuracy": accuracy}}
    return Trace(backend=backend, precision=precision, seed=seed, examples_per_s=100.0, **{**values, **changes})


def comparison(jax_loss: float = 0.0, torch_accuracies: tuple[float, ...] = (0.90, 0.91)) -> Comparison:
    loss = np.linspace(2.0, 0.1, 30)
    return Comparison(
        name="a recipe",
        checks=(trace("jax", "fp64", loss=loss * (1 + jax_loss)), trace("torch", "fp64")),
        runs=(
            tuple(trace("jax", seed=i, accuracy=value) for i, value in enumerate((0.90, 0.91))),
            tuple(trace("torch", seed=i, accuracy=value) for i, value in enumerate(torch_accuracies)),
        ),
        test_examples=100,
    )


def test_equal_engines_have_no_failures() -> None:
    assert comparison().failures == []
    assert comparison(jax_loss=1e-12).failures == []


def test_a_float64_difference_fails() -> None:
    (failure,) = comparison(jax_loss=1e-9).failures
    assert "float64 losses or gradient norms differ by 1.0e-09" in failure


def test_nan_and_short_runs_fail() -> None:
    broken = comparison()
    nan = dataclasses.replace(broken.checks[0], loss=np.full(30, np.nan))
    assert dataclasses.replace(broken, checks=(nan, broken.checks[1])).failures
    short = dataclasses.replace(broken.checks[0], loss=broken.checks[0].loss[:5])
    assert dataclasses.replace(broken, checks=(short, broken.checks[1])).failures


def test_accuracies_apart_by_more_than_seeds_fail() -> None:
    assert comparison(torch_accuracies=(0.91, 0.92)).failures == []
    (failure,) = comparison(torch_accuracies=(0.95, 0.96)).failures
    assert "mean accuracies differ by 0.0500, more than seeds make them differ (0.0100)" in failure
    assert accuracy_limit([[0.9], [0.9]], 359) == 1 / 359


def test_relative_difference_is_symmetric_and_strict() -> None:
    a, b = np.array([1.0, 0.0, np.nan, 2.0]), np.array([2.0, 0.0, np.nan, np.inf])
    assert relative_difference(a, b).tolist() == relative_difference(b, a).tolist() == [0.5, 0.0, np.inf, np.inf]


def test_the_report_shows_everything_and_needs_no_other_file(tmp_path: Path) -> None:
    page, image = write([comparison(jax_loss=1e-9)], {"jax": {"jax": "1 <2>"}, "torch": {}}, tmp_path / "new")
    text = page.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")
    for part in ("<svg", "not the same algorithm", "a recipe", "1 &lt;2&gt;", "examples/s", "grad norm torch"):
        assert part in text
    assert "src=" not in text
    console = Console(width=140, record=True, quiet=True)
    console.print(comparison_view(comparison()))


@pytest.mark.parametrize("recipe", [digits_recipe, bytes_recipe], ids=["digits", "bytes"])
def test_the_recipes_agree_in_float64(recipe: object) -> None:
    made = recipe()
    a, b = (record(made, engine, precision="fp64", steps=8) for engine in ("jax", "torch"))
    assert len(a.loss) == 8
    assert relative_difference(a.loss, b.loss).max() < 1e-13
    assert relative_difference(a.grad_norm, b.grad_norm).max() < 1e-12


def test_what_the_demo_cannot_do_is_said_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ct.ConfigError, match="seeds must be at least 1"):
        demo(seeds=0)
    with pytest.raises(
        ct.ConfigError, match=r"out must be a folder, or nothing yet, got .*/file/demo, where .*/file is"
    ):
        demo(out=tmp_path / "file" / "demo")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crosstrain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_env_names_versions_and_devices() -> None:
    result = run("env")
    assert result.returncode == 0, result.stderr
    for part in (ct.__version__, "jax", "flax", "torch", "1 x cpu"):
        assert part in result.stdout


def test_an_expected_error_is_one_line() -> None:
    result = run("parity", "nowhere.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: the port must be a Python file, got nowhere.py")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_demo_runs_on_one_engine(backend: str) -> None:
    result = run("demo", "--backend", backend, "--seeds", "1")
    assert result.returncode == 0, result.stderr
    assert f"digits, ResNet-9: {backend}, float32" in result.stdout


@pytest.mark.slow
def test_the_demo_agrees_and_writes_its_report(tmp_path: Path) -> None:
    result = run("demo", "--seeds", "2", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "The engines agree." in result.stdout
    assert (tmp_path / "parity.html").exists()
    assert (tmp_path / "parity.png").exists()
