"""Progressive resizing: sizes and batches by phase, one compilation for each size, and resumed between phases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.callbacks import Run
from crosstrain.data.phases import batch_size_for

from .tasks import InterruptOnce, images, prepared

Make = Callable[..., ct.Accelerator]

CONFIG = ct.models.MLPConfig(in_features=2, hidden=(8,))
PHASES = [ct.data.Phase(epochs=2, size=4), ct.data.Phase(epochs=1, size=8)]


def two_numbers(batch: Any) -> Any:
    """Brightness of the halves of an image: a model of any size."""
    image = batch["image"]
    return image.reshape((image.shape[0], 2, -1)).mean(-1)


def made(make: Make, seen: list[tuple[int, ...]] | None = None) -> tuple[ct.Trainer, ct.data.PhasedLoader]:
    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        if seen is not None:
            seen.append(tuple(batch["image"].shape))
        return ops.cross_entropy(model(two_numbers(batch)), batch["label"])

    accelerator = make()
    data = images(32)
    data = {**data, "image": data["image"].reshape(-1, 8, 8, 1).astype(np.float32)}
    loader = ct.data.progressive(
        lambda size, batch: accelerator.loader(
            data, batch_size=batch, shuffle=True, drop_last=True, transform=ct.data.resize(size)
        ),
        PHASES,
        batch_size=4,
    )
    trainer = ct.Trainer(accelerator, prepared(accelerator, CONFIG), loss, log_every=1, progress=False)
    return trainer, loader


def test_batches_grow_as_images_shrink() -> None:
    assert [batch_size_for(size, 64, 32) for size in (32, 16, 24)] == [64, 256, 113]
    assert [batch_size_for(size, 64, 32, multiple=8) for size in (32, 16, 24)] == [64, 256, 112]
    assert batch_size_for(32, 4, 32, multiple=8) == 8


def test_each_size_is_compiled_once(make: Make, backend: str) -> None:
    seen: list[tuple[int, ...]] = []
    trainer, loader = made(make, seen)
    assert loader.steps(3) == 2 * 2 + 8
    trainer.fit_one_cycle(loader, 3, 0.1)
    assert trainer.state.step == 12
    if backend == "jax":
        assert seen == [(16, 4, 4, 1), (4, 8, 8, 1)]
    assert set(seen) == {(16, 4, 4, 1), (4, 8, 8, 1)}
    assert loader.epoch == 3
    assert loader.batch_size == 4


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_killed_run_goes_on_in_its_phase(make: Make, at: int, tmp_path: Path) -> None:
    class Kill(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            if run.step == at + 1:
                raise KeyError

    whole, loader = made(make)
    losses = whole.fit(loader, epochs=3).values("loss").tolist()
    spec = ct.CheckpointSpec(root=tmp_path, every_steps=at, on_exception=False, every_epoch=False)
    killed, loader = made(make)
    killed._callbacks = (Kill(),)
    with pytest.raises(KeyError):
        killed.fit(loader, epochs=3, checkpoints=spec)
    resumed, loader = made(make)
    assert resumed.fit(loader, epochs=3, checkpoints=spec, resume="auto").values("loss").tolist() == losses[at:]


@pytest.mark.parametrize("plan", [False, True])
def test_a_run_that_was_interrupted_between_phases_goes_on_in_the_same_process(
    make: Make, plan: bool, tmp_path: Path
) -> None:
    """The loader is past its first epochs then; the run is as long as it was."""

    def fit(trainer: ct.Trainer, loader: ct.data.PhasedLoader, **options: Any) -> None:
        if plan:
            trainer.fit_one_cycle(loader, 3, 0.1, **options)
        else:
            trainer.fit(loader, epochs=3, **options)

    whole, loader = made(make)
    fit(whole, loader)
    trainer, loader = made(make)
    trainer._callbacks = (InterruptOnce(5),)
    options = {"checkpoints": ct.CheckpointSpec(root=tmp_path), "resume": "auto"}
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, loader, **options)
    fit(trainer, loader, **options)
    assert trainer.state.step == whole.state.step == 12
    for name in ("loss", "learning_rate"):
        assert trainer.history.values(name)[-7:].tolist() == whole.history.values(name)[-7:].tolist()


def test_fine_tuning_counts_the_steps_of_its_own_epochs(make: Make) -> None:
    trainer, loader = made(make)
    trainer._set_layers((r"^layers\.0", r"^layers\.1"))
    trainer.fine_tune(loader, 2, 0.1)
    rates = trainer.history.values("learning_rate")
    halves = ct.one_cycle(0.1, 2, pct_start=0.99), ct.one_cycle(0.05, 10, pct_start=0.3, div=5.0)
    assert rates.tolist() == [*halves[0].table(2), *halves[1].table(10)]


def test_reading_aside_leaves_every_phase_where_it_was(make: Make) -> None:
    trainer, loader = made(make)
    trainer.fit(loader, epochs=2)
    before = loader.state_dict()
    trainer.lr_find(loader, ct.RangeTest(steps=30))
    assert loader.state_dict() == before
    assert loader.epoch == 2


def test_what_is_no_phase_is_refused() -> None:
    for build, message in (
        (lambda: ct.data.Phase(epochs=0, size=8), "epochs must be at least 1"),
        (lambda: ct.data.PhasedLoader([]), "phases must be at least one"),
        (lambda: ct.data.progressive(lambda size, batch: None, [], batch_size=4), "phases must be at least one Phase"),
        (lambda: ct.data.progressive(lambda size, batch: None, PHASES, batch_size=0), "batch_size must be at least 1"),
    ):
        with pytest.raises(ct.DataError, match=message):
            build()
