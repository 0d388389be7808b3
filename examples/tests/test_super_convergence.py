"""`super_convergence.py` as a user runs it: its files, its table, and what it says of accuracies that are known."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "super_convergence.py"
ROW = re.compile(r"^\| (pieces|pieces, short|one cycle) \| (\d+) \| (\S+) \| (.+) \|$", re.MULTILINE)


def run(*flags):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), *map(str, flags)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def read_table(text):
    """Row -> steps, rate, and the mean accuracy in percent of every column."""
    return {
        name: (int(steps), float(rate), [float(cell.split(" ± ")[0]) for cell in cells.split(" | ")])
        for name, steps, rate, cells in ROW.findall(text)
    }


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("super_convergence", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_quick_writes_a_table_and_plots_of_one_seed(tmp_path):
    shown = run("--quick", "--backend", "torch", "--out", tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text in shown
    rows = read_table(text)
    assert [(steps, len(columns)) for steps, _, columns in rows.values()] == [(704, 1), (176, 1), (176, 1)]
    (pieces,), (short,), (cycle,) = (columns for *_, columns in rows.values())
    assert min(pieces, short, cycle) > 93
    assert rows["one cycle"][1] > 3 * rows["pieces"][1]  # a large rate, from the range test
    assert "torch: one seed gives no verdict." in text
    for name in ("runs.png", "range.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_both_engines_take_the_same_steps_and_come_to_nearly_the_same_accuracies(tmp_path):
    shown = run("--seeds", 2, "--out", tmp_path)
    rows = read_table((tmp_path / "table.md").read_text())
    assert len(rows) == 3
    for _, _, (jax, torch) in rows.values():
        assert abs(jax - torch) < 1.5  # float32 curves of BatchNorm over 32 images part
        assert min(jax, torch) > 93
    assert all(
        re.search(rf"^{engine}: .*\(one cycle - pieces [+-]", shown, re.MULTILINE) for engine in ("jax", "torch")
    )


@pytest.mark.slow
def test_cifar_files_are_read_and_tuned_on_training_images_alone(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        records = rng.integers(0, 256, (32, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / f"{name}.bin")
    flags = ("--data", tmp_path, "--backend", "torch", "--epochs", 4, "--peak", 0.5, "--width", 1, "--out", tmp_path)
    run("--quick", *flags)
    assert {steps for steps, *_ in read_table((tmp_path / "table.md").read_text()).values()} == {20, 5}
    (tmp_path / "table.md").unlink()
    assert len(re.findall(r"^\| (?:pieces|one cycle).*±", run("--tune", *flags), re.MULTILINE)) == 4 + 4 + 3
    assert not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("cycle", "said"),
    [
        ([0.95, 0.96, 0.97], "the claim holds here"),
        ([0.93, 0.94, 0.95], "the claim does not hold here"),
        ([0.945, 0.96, 0.955], "the claim does not hold here"),
    ],
    ids=["reached", "below", "barely below"],
)
def test_the_verdict_follows_the_accuracies(example, cycle, said):
    accuracies = {example.PIECES: [0.95, 0.96, 0.96], example.SHORT: [0.90, 0.91, 0.92], example.CYCLE: cycle}
    assert said in example.verdict("torch", results(example, accuracies))


def test_where_short_pieces_are_as_good_nothing_is_shown(example):
    same = [0.95, 0.96, 0.94]
    accuracies = {example.PIECES: same, example.SHORT: [0.95, 0.95, 0.95], example.CYCLE: same}
    assert "this shows nothing" in example.verdict("torch", results(example, accuracies))


def results(example, accuracies):
    return {
        ("torch", name): [example.Result(accuracy=value, steps=1, recorder=None) for value in values]
        for name, values in accuracies.items()
    }
