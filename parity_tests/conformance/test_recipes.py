"""`fit_one_cycle`, `fit_flat_cos` and `fine_tune`: the same curves on both engines, and resumed in the middle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct
from crosstrain.callbacks import Run

from .tasks import MLP, RESNET9, InterruptOnce, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]
ADAMW = ct.adamw(1e-3, weight_decay=0.1, groups=(ct.undecayed(),))


def trainer_of(accelerator: ct.Accelerator, config: Any = MLP, *callbacks: ct.Callback, **options: Any) -> ct.Trainer:
    state = prepared(accelerator, config, options.pop("optimizer", ADAMW))
    return ct.Trainer(accelerator, state, loss_fn, callbacks=callbacks, log_every=1, progress=False, **options)


def one_cycle(trainer: ct.Trainer, loader: Any, **options: Any) -> None:
    trainer.fit_one_cycle(loader, 2, slice(1e-3, 1e-2), **options)


def flat_cos(trainer: ct.Trainer, loader: Any, **options: Any) -> None:
    trainer.fit_flat_cos(loader, 2, 1e-2, **options)


def fine_tune(trainer: ct.Trainer, loader: Any, **options: Any) -> None:
    trainer.fine_tune(loader, 2, 1e-2, freeze_epochs=1, **options)


RECIPES = [one_cycle, flat_cos, fine_tune]
recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)


@recipes
def test_both_engines_give_the_same_curve_in_float64(recipe: Any, pytestconfig: pytest.Config) -> None:
    curves, weights = [], []
    for backend in pytestconfig.getoption("--backends").split(","):
        accelerator = ct.Accelerator(backend, precision="fp64")
        trainer = trainer_of(accelerator)
        loader = accelerator.loader(images(96), batch_size=16, shuffle=True)
        recipe(trainer, loader)
        curves.append([trainer.history.values(name) for name in ("loss", "learning_rate")])
        weights.append(dict(trainer.state.snapshot().params))
    for curve, params in zip(curves[1:], weights[1:], strict=True):
        assert curve[0] == pytest.approx(curves[0][0], rel=1e-10)
        assert (curve[1] == curves[0][1]).all()
        assert worst(params, weights[0]) <= 1e-10


@pytest.mark.slow
def test_fine_tuning_leaves_the_body_alone_until_it_is_unfrozen(make: Make) -> None:
    class Watch(ct.Callback):
        def __init__(self) -> None:
            self.snapshots: list[ct.Snapshot] = []

        def on_epoch_begin(self, run: Run) -> None:
            self.snapshots.append(run.state.snapshot())

    watch, accelerator = Watch(), make()
    trainer = trainer_of(accelerator, RESNET9, watch)
    loader = accelerator.loader(images(32), batch_size=16)
    trainer.fine_tune(loader, 1, 1e-2, freeze_epochs=1)
    start, middle = (dict(snapshot.params) for snapshot in watch.snapshots)
    end = dict(trainer.state.snapshot().params)
    roles = trainer.state.parameter_roles
    still = {name for name in start if (start[name] == middle[name]).all()}
    assert still == {name for name, role in roles.items() if role != "norm" and not name.startswith("head.")}
    assert all((middle[name] != end[name]).any() for name in start)
    assert trainer.state.frozen == ()


def test_layers_by_hand_are_frozen_and_thawed(make: Make) -> None:
    trainer = trainer_of(make(), RESNET9)
    assert trainer.layers == (r"^(?!head\.)", r"^head\.")
    trainer.freeze()
    assert "prep.conv.weight" in trainer.state.frozen
    assert not {name for name in trainer.state.frozen if trainer.state.parameter_roles[name] == "norm"}
    trainer.unfreeze()
    assert trainer.state.frozen == ()
    with pytest.raises(ct.ConfigError, match=r"count must be in \[1, 1\]"):
        trainer.freeze(2)
    with pytest.raises(ct.ConfigError, match=r"at least two groups to freeze the first, got layers=\(''"):
        trainer_of(make(), layers=("",)).freeze()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("^layers", "^head"), "every layer group must have a parameter, got '\\^head'"),
        (("0", "layers"), "every parameter must belong to one layer group, got layers.0"),
        (("0",), "every parameter must belong to one layer group, got layers.1.*none"),
        (("(",), "layers must be regular expressions"),
    ],
    ids=["empty", "two", "none", "invalid"],
)
def test_layer_groups_that_do_not_divide_the_parameters(make: Make, layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        trainer_of(make(), layers=layers)


def test_a_stopped_cycle_gives_the_rate_back(make: Make) -> None:
    class Stop(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            if run.step == 2:
                run.stop("enough")

    accelerator = make()
    trainer = trainer_of(accelerator, MLP, Stop())
    trainer.fit_one_cycle(accelerator.loader(images(64), batch_size=16), 4, 1e-2)
    assert trainer.state.step == 2
    assert trainer.state.learning_rate == 1e-3


def test_a_plan_gives_the_rates_of_layers_back(make: Make) -> None:
    """The step after `fine_tune` is that of the optimizer's own schedule, in every layer."""
    accelerator = make()
    sgd = ct.sgd(0.1)
    trainer = trainer_of(accelerator, MLP, optimizer=sgd)
    loader = accelerator.loader(images(16), batch_size=16)
    trainer.fine_tune(loader, 1, 1e-3)
    start = trainer.state.snapshot()
    trainer.fit(loader, epochs=1)
    plain = trainer_of(accelerator, MLP, optimizer=sgd)
    plain.state.load(start)
    plain.fit(loader, epochs=1)
    assert worst(dict(trainer.state.snapshot().params), dict(plain.state.snapshot().params)) == 0


def test_cycles_compile_nothing(make: Make, backend: str) -> None:
    if backend != "jax":
        pytest.skip("torch runs eagerly")
    traced = []

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        traced.append(1)
        return loss_fn(model, batch, ops)

    accelerator = make()
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP, ADAMW), loss, progress=False)
    loader = accelerator.loader(images(32), batch_size=16)
    trainer.fit(loader, epochs=1)
    for _ in range(2):
        trainer.fit_one_cycle(loader, 1, 1e-2)
        trainer.fit_flat_cos(loader, 1, 1e-2)
    assert len(traced) == 1


class KilledError(Exception):
    """Stands for a kill."""


def test_a_run_that_was_interrupted_goes_on_in_the_same_process(make: Make, tmp_path: Path) -> None:
    """As the cell of a notebook that is run again."""

    def trainer_and_rates(*callbacks: ct.Callback) -> tuple[ct.Trainer, Any, ct.callbacks.Recorder]:
        accelerator, recorder = make(precision="fp32"), ct.callbacks.Recorder()
        trainer = trainer_of(accelerator, MLP, recorder, *callbacks)
        return trainer, accelerator.loader(images(64), batch_size=16, shuffle=True), recorder

    whole, loader, rates = trainer_and_rates()
    one_cycle(whole, loader)
    trainer, loader, found = trainer_and_rates(InterruptOnce(3))
    options = {"checkpoints": ct.CheckpointSpec(root=tmp_path), "resume": "auto"}
    with pytest.raises(KeyboardInterrupt):
        one_cycle(trainer, loader, **options)
    one_cycle(trainer, loader, **options)
    assert trainer.state.step == whole.state.step
    assert found.rates == rates.rates
    assert worst(dict(trainer.state.snapshot().params), dict(whole.state.snapshot().params)) == 0


@pytest.mark.parametrize(
    ("recipe", "at"),
    [(fine_tune, 3), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((fine_tune, 7), (one_cycle, 3)))],
)
def test_a_killed_run_goes_on_in_the_middle_of_its_plan(make: Make, recipe: Any, at: int, tmp_path: Path) -> None:
    class Kill(ct.Callback):
        def on_step_end(self, run: Run, metrics: ct.Metrics) -> None:
            if run.step == at + 1:
                raise KilledError

    def run(*callbacks: ct.Callback, **options: Any) -> ct.Trainer:
        accelerator = make(precision="fp32")
        trainer = trainer_of(accelerator, MLP, *callbacks)
        loader = accelerator.loader(images(64), batch_size=16, shuffle=True)
        recipe(trainer, loader, **options)
        return trainer

    whole = run()
    spec = ct.CheckpointSpec(root=tmp_path, every_steps=at, on_exception=False, every_epoch=False)
    with pytest.raises(KilledError):
        run(Kill(), checkpoints=spec)
    resumed = run(checkpoints=spec, resume="auto")
    assert resumed.history.train[0].step == at + 1
    assert resumed.history.values("loss").tolist() == whole.history.values("loss")[at:].tolist()
    assert worst(dict(resumed.state.snapshot().params), dict(whole.state.snapshot().params)) == 0
