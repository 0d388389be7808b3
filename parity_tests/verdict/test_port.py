"""A user's port, from the command line to the page: what is found, which fixes close the gap, and what fails a test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import crosstrain as ct
from crosstrain.parity import Port, assert_same_training, compare, load_port
from crosstrain.parity.fixes import try_fixes
from parity_tests.verdict import port_example

EXAMPLE = Path(port_example.__file__)


def port(**changes: object) -> Port:
    made = load_port(EXAMPLE)
    values = {name: getattr(made, name) for name in Port.__dataclass_fields__}
    return Port(**{**values, **changes})


def fixed_model() -> object:
    return port_example.FlaxBlock(eps=1e-5, approximate=False)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("out")
    arguments = ["parity", str(EXAMPLE), "--free-steps", "10", "--out", str(out)]
    result = subprocess.run(
        [sys.executable, "-m", "crosstrain", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=EXAMPLE.parents[2],
    )
    return result, out / "parity.html"


def test_the_command_names_causes_and_closes_the_gap(command: tuple) -> None:
    result, _ = command
    assert result.returncode == 1, result.stdout + result.stderr
    text = " ".join(result.stdout.split())
    for part in (
        "mha.query.weight + mha.key.weight + mha.value.weight",
        "norm1.eps",
        "1e-05 against 1e-06",
        "eps=1e-05 in ln_1, ln_2",
        "jax.nn.gelu(approximate=False)",
        "closes the gap",
        "with these fixes both are the same algorithm",
        "not the same algorithm: torch and jax part first in settings: norm1.eps",
    ):
        assert part in text, result.stdout


def test_the_page_needs_no_other_file(command: tuple) -> None:
    page = command[1].read_text()
    assert "<svg" in page
    assert "closes the gap" in page
    for outside in ('src="http', 'href="http', "<script src", "@import"):
        assert outside not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_page_renders_in_a_browser(command: tuple, tmp_path: Path) -> None:
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"),
    ]
    result = subprocess.run(
        [*browser, "--dump-dom", command[1].as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Do these two models train the same?" in result.stdout
    assert "norm1.eps" in result.stdout


def test_the_first_difference_is_the_operation_between_two_layers() -> None:
    """With equal eps, all that is left is the gelu between fc1 and fc2; attention computes float64 in float64."""
    torch, jax, _ = port(jax_model=lambda: port_example.FlaxBlock(eps=1e-5)).sides()
    first = compare(torch, jax, total_steps=60, free_steps=5).first
    assert (first.channel, first.where) == ("activation", "between fc1 and fc2")


def test_fixes_are_tried_and_counted() -> None:
    torch, jax, _ = port().sides()
    verdict = compare(torch, jax, total_steps=60, free_steps=5)
    fixes, fixed = try_fixes(torch, jax, verdict, total_steps=60, free_steps=5)
    assert fixed.same_algorithm
    assert fixes[-1].closes
    assert fixes[-1].after < 1e-13 < fixes[0].before


def test_assert_same_training_fails_with_the_report() -> None:
    with pytest.raises(AssertionError, match=r"not the same algorithm:\n  settings: norm1.eps"):
        assert_same_training(port(), free_steps=3)


def test_assert_same_training_passes_for_paired_models() -> None:
    from parity_tests.mutations.bases import BASES, TOTAL_STEPS

    base = BASES["mlp"]
    verdict = assert_same_training(base.side("torch"), base.side("jax"), total_steps=TOTAL_STEPS)
    assert verdict.free_difference < 1e-12


WHOLE = "import crosstrain as ct\nloss_fn = torch_model = jax_model = batches = print\noptimizer = ct.sgd(0.1)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the port must be a Python file, got .*missing.py, which does not exist"),
        ("x = 1\n", "must define .*got a file without torch_loss, jax_loss, torch_model"),
        (
            "loss_fn = torch_model = jax_model = batches = print\noptimizer = 3\n",
            "optimizer must be an OptimizerSpec, got int",
        ),
        (
            f"{WHOLE}from torch import nn\ntorch_model = nn.Linear(2, 2)\n",
            "torch_model must be a function, got a Linear",
        ),
        (f"{WHOLE}batches = [1]\n", "batches must be a function, got a list"),
        (f"{WHOLE}total_steps = 0\n", "total_steps must be at least 1"),
        (f"{WHOLE}hints = ['a']\n", "hints must be a dict of torch parameter -> flax parameter, got a list"),
    ],
    ids=["missing", "incomplete", "optimizer", "model", "batches", "steps", "hints"],
)
def test_files_that_are_no_port(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "missing.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ct.ConfigError, match=message):
        load_port(path)
