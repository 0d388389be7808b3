"""Runs the CIFAR-10 recipe as a user does: on small files of the format, without them, and on digits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "cifar10_dawnbench.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
NAMES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
TRICKS = "--whitening 2 --alternating-flip --lookahead --progressive --price-per-hour 3600"
SLOW = pytest.mark.slow  # what compiles


def run(backend: str, data: str | Path, flags: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), "--backend", backend, "--data", str(data), *flags.split()],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


def write_cifar(folder: Path, count: int = 40) -> Path:
    """Six files of `count` images each whose classes are shades: 200 images to train on, 40 to test."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        records = rng.integers(0, 30, (count, 3073), dtype=np.uint8)
        records[:, 0] = rng.integers(0, 10, count)
        records[:, 1:] += 22 * records[:, :1]
        records.tofile(folder / name)
    return folder


def epochs(text: str) -> list[tuple[float, ...]]:
    """Loss, accuracy, seconds and cost of each epoch."""
    pattern = r"^epoch +\d+  train loss (\S+)  test accuracy (\S+)  (\S+) s(?:, cost (\S+))?$"
    return [tuple(float(each or 0) for each in found) for found in re.findall(pattern, text, flags=re.MULTILINE)]


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=SLOW), "torch"])
def test_files_of_the_format_are_trained_on_with_every_trick(backend, tmp_path):
    folder = write_cifar(tmp_path / "cifar-10-batches-bin")
    size = "--epochs 2 --width 2 --batch-size 50 --precision bf16 --target 0.01"
    done = run(backend, folder.parent, f"{size} {TRICKS}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = epochs(done.stdout)
    assert len(found) == 2
    assert all(cost == pytest.approx(seconds, abs=0.051) for _, _, seconds, cost in found)
    last = done.stdout.splitlines()[-1]
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"{backend}: 2 epochs, {number} s, cost {number}, test accuracy {number}, with views {number}; "
        rf"1.00% reached after epoch [12], {number} s, cost {number}",
        last,
    ), last


def test_missing_files_are_named(tmp_path):
    done = run("torch", tmp_path / "nowhere")
    assert done.returncode == 2
    assert not done.stdout
    for name in (*NAMES, "cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html", "nowhere"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    folder = write_cifar(tmp_path / "half", count=2)
    (folder / "data_batch_3.bin").unlink()
    done = run("torch", folder)
    assert done.returncode == 2
    assert "data_batch_3.bin" in done.stderr.splitlines()[0]


@pytest.mark.slow
def test_both_engines_print_the_same_numbers_on_digits():
    flags = f"--epochs 2 --width 4 --batch-size 64 --precision fp64 --tta mirror {TRICKS}"
    texts = [run(backend, "digits", flags) for backend in ("jax", "torch")]
    assert [done.returncode for done in texts] == [0, 0], texts[0].stderr + texts[1].stderr
    first, second = ([each[:2] for each in epochs(done.stdout)] for done in texts)
    assert len(first) == 2
    assert first == second
    views = [re.search(r"with views (\S+);", done.stdout)[1] for done in texts]
    assert views[0] == views[1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_recipe_learns_digits(backend):
    done = run(backend, "digits", "--epochs 8 --width 8 --batch-size 64 --whitening 3 --alternating-flip")
    assert done.returncode == 0, done.stderr
    (views,) = re.findall(r"with views (\S+);", done.stdout)
    assert float(views) >= 0.96
    assert "94.00% reached after epoch" in done.stdout


@pytest.mark.slow
def test_muon_learns_digits():
    done = run("torch", "digits", "--epochs 8 --width 8 --batch-size 64 --optimizer muon")
    assert done.returncode == 0, done.stderr
    (views,) = re.findall(r"with views (\S+);", done.stdout)
    assert float(views) >= 0.94
