"""The learning-rate finder: the same suggestion on both engines, and everything as it was before."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.training.command import lr_find
from crosstrain.training.lr_find import RangeCurve, RangeTest

from .tasks import DROPOUT_MLP, MLP, images, loss_fn, native, prepared, worst

Make = Callable[..., ct.Accelerator]


def finder(accelerator: ct.Accelerator, optimizer: Any, config: Any = MLP, **options: Any) -> tuple[ct.Trainer, Any]:
    state = prepared(accelerator, config, optimizer, **options)
    trainer = ct.Trainer(accelerator, state, loss_fn, log_every=1, progress=False)
    return trainer, accelerator.loader(images(400), batch_size=32, shuffle=True)


def test_both_engines_suggest_the_same_rates_in_float64(pytestconfig: pytest.Config) -> None:
    curves: list[RangeCurve] = []
    for backend in pytestconfig.getoption("--backends").split(","):
        trainer, loader = finder(ct.Accelerator(backend, precision="fp64"), ct.adamw(1e-3))
        curves.append(trainer.lr_find(loader))
    first = curves[0]
    assert set(first.suggestions) == {"valley", "steep", "minimum"}
    assert 1e-4 < first.valley < 1.0
    for other in curves[1:]:
        assert other.losses == pytest.approx(first.losses, rel=1e-10)
        assert other.suggestions == first.suggestions


@pytest.mark.parametrize(
    "optimizer",
    [ct.nadam(1e-3), pytest.param(ct.sgd(0.1, momentum=0.9), marks=pytest.mark.slow)],
    ids=lambda spec: type(spec).__name__,
)
def test_everything_is_afterwards_what_it_was(make: Make, optimizer: Any) -> None:
    """Bit for bit in float32: weights, moments, averages, step, masks, order, and so the losses that follow."""

    def run(*, find: bool) -> tuple[list[float], ct.Snapshot, Any]:
        trainer, loader = finder(make(precision="fp32"), optimizer, DROPOUT_MLP, average=ct.ema(0.9))
        trainer.fit(loader, steps=5)
        if find:
            before, position, spec = trainer.state.snapshot(), loader.state_dict(), trainer.state.optimizer
            curve = trainer.lr_find(loader, RangeTest(steps=30))
            assert len(curve.rates) > 20
            assert same(before, trainer.state.snapshot())
            assert (loader.state_dict(), trainer.state.optimizer, trainer.state.step) == (position, spec, 5)
        trainer.fit(loader, steps=5)
        return trainer.history.values("loss").tolist(), trainer.state.snapshot(), loader.state_dict()

    with_it, without = run(find=True), run(find=False)
    assert with_it[0] == without[0]
    assert same(with_it[1], without[1])
    assert with_it[2] == without[2]


def same(a: ct.Snapshot, b: ct.Snapshot) -> bool:
    x, y = a.sections(), b.sections()
    return x.keys() == y.keys() and all(
        (np.asarray(values) == np.asarray(y[section][name])).all()
        for section, arrays in x.items()
        for name, values in arrays.items()
    )


def test_random_numbers_of_the_users_own_layers_are_put_back(make: Make, backend: str) -> None:
    def losses(*, find: bool) -> list[float]:
        accelerator = make(precision="fp32")
        state = accelerator.prepare(native(backend).Small(), ct.adamw(1e-3))
        trainer = ct.Trainer(accelerator, state, loss_fn, log_every=1, progress=False)
        loader = accelerator.loader(images(64), batch_size=16)
        if find:
            trainer.lr_find(loader, RangeTest(steps=20))
        return trainer.fit(loader, epochs=1).values("loss").tolist()

    assert losses(find=True) == losses(find=False)


def test_it_stops_where_the_loss_leaves_and_at_a_loss_that_is_not_finite(make: Make) -> None:
    trainer, loader = finder(make(nan_policy="raise"), ct.sgd(0.1))
    before = trainer.state.snapshot()
    curve = trainer.lr_find(loader, RangeTest(end=1e9, steps=60))
    assert len(curve.rates) < 60
    assert curve.smoothed[-1] > 4 * np.nanmin(curve.smoothed) or not np.isfinite(curve.losses[-1])
    whole = trainer.lr_find(loader, RangeTest(start=1e-6, end=1e-5, steps=25))
    assert len(whole.rates) == len(whole.losses) == 25
    assert whole.rates[-1] == pytest.approx(1e-5)
    assert worst(dict(before.params), dict(trainer.state.snapshot().params)) == 0
    trainer.fit(loader, steps=1)


def test_an_exception_in_the_middle_puts_everything_back(make: Make) -> None:
    trainer, loader = finder(make(), ct.adamw(1e-3))
    before, position = trainer.state.snapshot(), loader.state_dict()
    step, calls = trainer._step._run, []

    def fail(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*args)

    trainer._step._run = fail
    with pytest.raises(KeyboardInterrupt):
        trainer.lr_find(loader)
    assert same(before, trainer.state.snapshot())
    assert loader.state_dict() == position


def test_where_all_stands_still_in_the_middle_everything_is_put_back(make: Make) -> None:
    still = dataclasses.replace(ct.adamw(1e-3), layers=(ct.LayerGroup(frozen=((10, None),)),))
    trainer, loader = finder(make(), still)
    before = trainer.state.snapshot()
    with contextlib.suppress(ct.LossError):  # of torch, which has nothing to differentiate then
        trainer.lr_find(loader)
    assert trainer.state.optimizer == still
    assert same(before, trainer.state.snapshot())


def test_the_plot_is_a_picture(make: Make, tmp_path: Path) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    trainer, loader = finder(make(precision="fp32"), ct.adamw(1e-3))
    curve = trainer.lr_find(loader, RangeTest(steps=40))
    curve.plot(tmp_path / "runs" / "lr.png")
    assert (tmp_path / "runs" / "lr.png").read_bytes()[:4] == b"\x89PNG"
    for path in (tmp_path, tmp_path / "lr.nothing"):
        with pytest.raises(ct.ConfigError, match="a plot must be a file that ends in"):
            curve.plot(path)
    with pytest.raises(ct.ConfigError, match=r"the folder of a plot must be a folder, or nothing yet, .* is a file"):
        curve.plot(tmp_path / "runs" / "lr.png" / "other.png")


SCRIPT = """
import crosstrain as ct
from parity_tests.conformance.tasks import MLP, images, loss_fn, prepared

def build_trainer(backend):
    accelerator = ct.Accelerator(backend)
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP, ct.adamw(1e-3)), loss_fn, progress=False)
    return {returned}
"""


def test_the_command_reads_a_script_and_shows_the_curve(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, out = tmp_path / "train.py", tmp_path / "plot.png"
    script.write_text(SCRIPT.format(returned="trainer, accelerator.loader(images(200), batch_size=32)"))
    assert lr_find(script, backend=backend, steps=30, out=out) == 0
    shown = capsys.readouterr().out
    assert "valley" in shown
    assert "wrote" in shown
    assert out.is_file()
    with pytest.raises(ct.ConfigError, match="a plot must be a file"):
        lr_find(tmp_path / "none.py", out=tmp_path)


def test_a_script_that_does_not_give_a_trainer_is_refused(backend: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    for text, message in (
        ("x = 1", r"train.py must define build_trainer\(backend\)"),
        (SCRIPT.format(returned="trainer"), r"build_trainer must return \(trainer, loader\), got Trainer"),
        (SCRIPT.format(returned="trainer, [1]"), "must return a loader of accelerator.loader second, got list"),
    ):
        script.write_text(text)
        with pytest.raises(ct.ConfigError, match=message):
            lr_find(script, backend=backend)
    with pytest.raises(ct.ConfigError, match=r"the script must be a Python file, got .*which does not exist"):
        lr_find(tmp_path / "none.py")


def test_a_curve_that_ends_at_once_says_so(make: Make) -> None:
    trainer, loader = finder(make(), ct.adamw(1e-3))
    trainer = ct.Trainer(
        trainer.accelerator, trainer.state, lambda m, b, ops: ops.mean(m(b["image"]) * np.nan), progress=False
    )
    curve = trainer.lr_find(loader)
    for read in (lambda: curve.valley, curve.text):
        with pytest.raises(ct.DataError, match="the range test must take some steps before the loss leaves, got 1"):
            read()
