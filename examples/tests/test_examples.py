"""Runs the example scripts as a user does, each in a process of its own, and reads what they print."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1]
ENGINES = ("jax", "torch")
PICK_A_BACKEND = ("digits.py", "bytes_lm.py", "custom_loop.py")
TINY_LM = "--dim 32 --n-layers 1 --n-heads 2 --length 32 --batch-size 16 --steps 60 --warmup-steps 6 --held-out 4096"
# Test workers share the cores; torch's threads would wait for each other.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLES, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@functools.cache
def output(script: str, flags: str = "") -> str:
    """What a script prints; it must end well and complain about nothing."""
    done = python("-W", "error", script, *flags.split())
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def floats(pattern: str, text: str) -> list[float]:
    """The numbers that follow `pattern`, one for each time that it occurs."""
    return [float(found) for found in re.findall(pattern + r" (\d+\.\d+(?:e-?\d+)?)", text)]


@pytest.mark.parametrize("script", PICK_A_BACKEND)
def test_arguments_choose_the_engine_and_are_documented(script):
    shown = output(script, "--help")
    assert "--backend {None,jax,torch}" in shown
    assert "Engine; None takes the one that is installed." in shown


@pytest.mark.parametrize("engine", ENGINES)
def test_digits_reaches_98_percent_with_its_defaults(engine):
    shown = output("digits.py", f"--backend {engine} --require-accuracy 0.98")
    assert shown.startswith(f"{engine}: test accuracy ")
    assert re.search(r"[\d,]+ examples/s", shown)
    (accuracy,) = floats("test accuracy", shown)
    assert accuracy >= 0.98


def test_digits_takes_an_installed_engine_and_exits_with_an_error_below_the_required_accuracy():
    done = python("digits.py", "--epochs=1", "--width=1", "--batch-size=512", "--require-accuracy=0.98")
    assert done.returncode == 1
    assert f"using the {ENGINES[0]} engine" in done.stderr
    assert "test accuracy must be at least 0.98, got 0." in done.stderr


@pytest.mark.parametrize("engine", [pytest.param("jax", marks=pytest.mark.slow), "torch"])
def test_settings_from_a_file_reach_98_percent(engine):
    shown = output("run_config.py", f"--backend {engine}")
    assert shown.startswith(f"{engine}: test accuracy ")
    assert "(15 epochs, peak rate 0.01)" in shown
    (accuracy,) = floats("test accuracy", shown)
    assert accuracy >= 0.98


def test_the_command_line_changes_settings_of_a_file(tmp_path):
    (tmp_path / "own.yaml").write_text("{batch_size: 128, num_train_epochs: 1, learning_rate: 3e-3}")
    shown = output("run_config.py", f"--config {tmp_path / 'own.yaml'} --backend torch --learning-rate 2e-3")
    assert "(1 epochs, peak rate 0.002)" in shown
    wrong = python("run_config.py", "--backend=torch", "--learning-rte=1")
    assert wrong.returncode != 0
    assert "--learning-rate" in wrong.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_lm_learns_more_than_the_frequencies_of_bytes(engine):
    shown = output("bytes_lm.py", f"--backend {engine} --learning-rate 1e-2 {TINY_LM}")
    (frequencies,) = floats("frequencies of bytes +", shown)
    (untrained,) = floats(f"{engine}, untrained +", shown)
    (trained,) = floats(f"{engine}, after 60 steps +", shown)
    assert untrained > 5.0  # about log(256) = 5.5: nothing is known yet
    assert trained < frequencies
    assert len(floats("nats ", shown)) == 3  # each beside its bits per byte


def test_bytes_lm_comes_to_the_same_loss_on_both_engines():
    first, second = (
        floats("after 60 steps +", output("bytes_lm.py", f"--backend {engine} --learning-rate 1e-2 {TINY_LM}"))
        for engine in ENGINES
    )
    assert first == pytest.approx(second, abs=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gan_comes_closer_to_real_digits(engine):
    shown = output("custom_loop.py", f"--backend {engine} --epochs 3 --report-every 1")
    untrained, *distances = (*re.findall(r"real ones, (\S+) untrained", shown), *floats("distance", shown))
    assert float(distances[-1]) < float(untrained) - 0.5


def test_the_gan_has_the_same_losses_on_both_engines():
    """One epoch is 22 steps of two models that learn from each other; float32 losses agree to rounding after it."""
    first, second = (
        floats(
            r"(?:discriminator|generator) loss",
            output("custom_loop.py", f"--backend {engine} --epochs 3 --report-every 1"),
        )
        for engine in ENGINES
    )
    assert len(first) == 6
    assert first[:2] == pytest.approx(second[:2], rel=1e-5)


@pytest.mark.parametrize(("engine", "other"), [("jax", "torch"), ("torch", "jax")])
def test_five_lines_agree_with_the_plain_loop_and_load_only_their_framework(engine, other):
    run_and_list_modules = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__'); print(*sys.modules)"
    done = python("-W", "error", "-c", run_and_list_modules, f"five_lines_{engine}.py")
    assert done.returncode == 0, done.stderr
    before, after = floats("before", done.stdout), floats("after", done.stdout)
    assert len(before) == 1
    assert before == pytest.approx(after, rel=1e-4)
    modules = done.stdout.splitlines()[-1].split()
    assert {engine, f"crosstrain_{engine}"} <= set(modules)
    assert not {other, f"crosstrain_{other}"} & set(modules)


def test_compiled_programs_send_what_the_formulas_say():
    rows = re.findall(
        r"^\| (data|fsdp|tensor) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$",
        output("benchmarks/scaling.py", "--devices 8 64"),
        re.MULTILINE,
    )
    assert [(axis, int(devices)) for axis, devices, *_ in rows] == [
        (axis, devices) for axis in ("data", "fsdp", "tensor") for devices in (8, 64)
    ]
    for axis, devices, formula, compiled, _, state in rows:
        assert abs(float(compiled) / float(formula) - 1) < 0.001
        whole = float(rows[0][-1])
        assert abs(float(state) / (whole if axis == "data" else whole / int(devices)) - 1) < 0.06


@pytest.mark.slow
def test_benchmarks_run_in_small_sizes_and_without_a_gpu():
    small = output("benchmarks/gpu.py", "--tiny --batch-size 2")
    assert "jax, compile='step': gpt of 0.0 million parameters" in small
    assert "torch, compile=False: gpt" in small
    rows = output("benchmarks/growth.py", "--tiny --axes batch --one batch 8 jax")
    assert len(rows.split(",")) == 2
