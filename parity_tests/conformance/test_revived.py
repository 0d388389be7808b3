"""States that `restore` makes by itself: the model, optimizer and average that the checkpoint describes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct
from crosstrain.checkpoint import open_portable
from crosstrain.schedules import Schedule

from .tasks import ADAM, DROPOUT_MLP, GPT, MLP, SAVED, images, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]
MUON = ct.muon(
    ct.one_cycle(0.02, 20), momentum=ct.one_cycle_momentum(20), groups=(ct.undecayed(), ct.ParamGroup(match="0"))
)


CASES = [pytest.param(DROPOUT_MLP, MUON, id="schedules and groups"), pytest.param(MLP, ADAM, id="adamw")]
SLOW = [pytest.param(*each.values, id=str(each.id), marks=pytest.mark.slow) for each in SAVED]


@pytest.mark.parametrize(("config", "optimizer"), [*CASES, *SLOW])
def test_training_continues_bit_for_bit(make: Make, tmp_path: Path, config: Any, optimizer: Any) -> None:
    accelerator, batch = make(), tokens(8) if config is GPT else images(8)
    state, step = prepared(accelerator, config, optimizer, average=ct.ema(0.9)), accelerator.train_step(loss_fn)
    for _ in range(3):
        step(state, batch)
    accelerator.export(state, tmp_path / "checkpoint")
    expected = [step(state, batch)["loss"] for _ in range(3)]
    other = make()
    revived = other.restore(tmp_path / "checkpoint")
    assert (revived.step, revived.optimizer, revived.average) == (3, optimizer, ct.ema(0.9))
    assert revived.model_config == config
    step = other.train_step(loss_fn)
    assert [step(revived, batch)["loss"] for _ in range(3)] == expected
    assert worst(revived.snapshot().averages, state.snapshot().averages) == 0


def test_a_state_without_an_optimizer_is_revived_without_one(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    state = accelerator.prepare(ct.models.build("mlp", MLP, accelerator))
    accelerator.export(state, tmp_path / "checkpoint")
    revived = accelerator.restore(tmp_path / "checkpoint")
    assert (revived.is_trainable, revived.average) == (False, None)
    assert worst(revived.snapshot().params, state.snapshot().params) == 0


def test_the_loader_goes_on_where_it_was(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    loader = accelerator.loader(images(40), batch_size=8, shuffle=True)
    state, step = prepared(accelerator, MLP, ADAM), accelerator.train_step(loss_fn)
    batches = iter(loader)
    for _ in range(3):
        step(state, next(batches))
    accelerator.export(state, tmp_path / "checkpoint", loader=loader)
    fresh = accelerator.loader(images(40), batch_size=8, shuffle=True)
    revived = accelerator.restore(tmp_path / "checkpoint", loader=fresh)
    assert [step(revived, batch)["loss"] for batch in fresh] == [step(state, batch)["loss"] for batch in batches]


def own_model(make: Make, backend: str, accelerator: ct.Accelerator) -> ct.TrainState:
    return accelerator.prepare(native(backend).Small(), ct.sgd(0.1))


def a_subclass(make: Make, backend: str, accelerator: ct.Accelerator) -> ct.TrainState:
    model = ct.models.build("mlp", MLP, accelerator)
    model.__class__ = type("Larger", (type(model),), {})
    return accelerator.prepare(model, ADAM)


@pytest.mark.parametrize("state_of", [own_model, a_subclass])
def test_a_model_of_ones_own_needs_its_state(make: Make, backend: str, tmp_path: Path, state_of: Any) -> None:
    accelerator = make(precision="fp32")
    accelerator.export(state_of(make, backend, accelerator), tmp_path / "checkpoint")
    assert open_portable(tmp_path / "checkpoint").manifest.model is None
    with pytest.raises(
        ct.CheckpointError, match=r"got one of a model of your own\. .* accelerator.restore\(path, state"
    ):
        accelerator.restore(tmp_path / "checkpoint")


def test_frozen_parameters_are_not_thawed(make: Make, backend: str, tmp_path: Path) -> None:
    if backend == "jax":
        pytest.skip("on JAX groups freeze parameters, and the optimizer's spec has them")
    accelerator = make()
    model = ct.models.build("mlp", MLP, accelerator)
    model.layers[0].weight.requires_grad_(False)
    accelerator.export(accelerator.prepare(model, ADAM), tmp_path / "checkpoint")
    with pytest.raises(ct.CheckpointError, match="got one of a model of your own"):
        accelerator.restore(tmp_path / "checkpoint")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Own(Schedule):
    """A schedule of one's own."""

    def rate(self, step: int) -> float:
        return 0.1


def test_a_schedule_of_ones_own_needs_its_state(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    accelerator.export(prepared(accelerator, MLP, ct.sgd(Own())), tmp_path / "checkpoint")
    with pytest.raises(ct.CheckpointError, match=r"no spec is called 'Own'\. Prepare the state and pass it"):
        accelerator.restore(tmp_path / "checkpoint")
    state = prepared(accelerator, MLP, ct.sgd(Own()))
    accelerator.restore(tmp_path / "checkpoint", state)
    assert state.step == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", [8], r"layers.0.\w+ must have shape"),
        ("hidden", [16, 16], "the snapshot's params must be those of this model, missing: layers.2"),
        ("hidden", [16.5], "MLPConfig has no hidden="),
        ("dropout", 2.0, r"dropout must be in \[0, 1\), got dropout=2.0"),
        ("type", "Path", "no spec is called 'Path'"),
        ("type", "Ema", "model must be a spec that"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    make: Make, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    accelerator = make()
    path = accelerator.export(prepared(accelerator, MLP, ADAM), tmp_path / "checkpoint")
    manifest = json.loads((path / "checkpoint.json").read_text())
    manifest["model"][field] = value
    (path / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(ct.CheckpointError, match=message):
        accelerator.restore(path)


def test_the_first_form_of_checkpoints_says_nothing_of_the_model(make: Make, tmp_path: Path) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP, ADAM)
    path = accelerator.export(state, tmp_path / "checkpoint")
    manifest = json.loads((path / "checkpoint.json").read_text())
    del manifest["model"], manifest["average"]
    (path / "checkpoint.json").write_text(json.dumps(manifest))
    accelerator.restore(path, state)
    with pytest.raises(ct.CheckpointError, match="got one of a model of your own"):
        accelerator.restore(path)
