"""A `TrainState` is a handle on the present; snapshots are the past."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import DROPOUT_MLP, GPT, MLP, RESNET9, images, logits_fn, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


def test_a_step_takes_the_old_arrays_away(make: Make, backend: str) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP)
    old, snapshot = native(backend).leaf(state), state.snapshot()
    kept = {name: values.copy() for name, values in snapshot.params.items()}
    values = np.array(old.tolist())
    accelerator.train_step(loss_fn)(state, images(8))
    assert native(backend).is_gone(old, values)
    assert worst(snapshot.params, kept) == 0
    assert worst(state.snapshot().params, kept) > 0


@pytest.mark.parametrize("config", [MLP, RESNET9, GPT], ids=lambda config: config.kind)
@pytest.mark.parametrize("optimizer", [ct.sgd(0.1, momentum=0.9), ct.adamw(ct.cosine(1e-2, 10))], ids=["sgd", "adamw"])
def test_a_loaded_snapshot_continues_bit_for_bit(make: Make, config: Any, optimizer: Any) -> None:
    accelerator = make()
    batch = tokens(8) if config is GPT else images(8)
    state, step = prepared(accelerator, config, optimizer, average=ct.ema(0.9)), accelerator.train_step(loss_fn)
    for _ in range(3):
        step(state, batch)
    middle = state.snapshot()
    expected = [step(state, batch)["loss"] for _ in range(3)]
    fresh = prepared(accelerator, config, optimizer, average=ct.ema(0.9))
    fresh.load(middle)
    assert [step(fresh, batch)["loss"] for _ in range(3)] == expected
    assert worst(fresh.snapshot().params, state.snapshot().params) == 0
    assert worst(fresh.snapshot().averages, state.snapshot().averages) == 0
    assert fresh.step == 6


def test_names_shapes_and_roles_are_those_of_the_config(make: Make) -> None:
    for config in (MLP, RESNET9, GPT, dataclasses.replace(GPT, tie_embeddings=True, n_kv_heads=1)):
        state = prepared(make(), config)
        table = config.parameters()
        assert state.parameter_shapes == {name: table[name].shape for name in state.parameter_shapes}
        assert set(state.parameter_shapes) == set(table)
        assert state.parameter_roles == {name: table[name].role for name in state.parameter_roles}
        assert state.parameter_count == config.parameter_count
        weights = config.initial_weights(0)
        assert worst(dict(state.snapshot().params), weights) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {**p, "extra": np.zeros(1)}, "unknown: extra"),
        (lambda p: {name: values for name, values in p.items() if name != "layers.0.bias"}, "missing: layers.0.bias"),
        (lambda p: {**p, "layers.0.bias": np.zeros(3)}, r"layers.0.bias must have shape \(16,\), got \(3,\)"),
    ],
    ids=["unknown", "missing", "shape"],
)
def test_a_snapshot_of_another_model_is_refused(make: Make, change: Any, message: str) -> None:
    state = prepared(make(), MLP)
    before = state.snapshot()
    with pytest.raises(ct.ConfigError, match=message):
        state.load(dataclasses.replace(before, params=change(dict(before.params))))
    assert worst(state.snapshot().params, before.params) == 0


@pytest.mark.parametrize(
    ("taken", "given", "message"),
    [
        (ct.sgd(0.1, momentum=0.9), ct.adamw(1e-2), "missing: first_moment, second_moment, got momentum"),
        (ct.adamw(1e-2), ct.sgd(0.1, momentum=0.9), "missing: momentum, got first_moment, second_moment"),
    ],
    ids=["sgd to adamw", "adamw to sgd"],
)
def test_moments_of_another_optimizer_are_refused_as_a_whole(make: Make, taken: Any, given: Any, message: str) -> None:
    accelerator = make()
    source, state = prepared(accelerator, MLP, taken), prepared(accelerator, MLP, given)
    accelerator.train_step(loss_fn)(source, images(8))
    before = state.snapshot()
    with pytest.raises(ct.ConfigError, match=message):
        state.load(source.snapshot())
    assert worst(state.snapshot().params, before.params) == 0
    assert state.step == 0
    # What the message proposes: the weights alone.
    state.load(dataclasses.replace(source.snapshot(), moments={}))
    assert worst(state.snapshot().params, source.snapshot().params) == 0


def test_weights_of_the_framework_are_loaded_as_they_are(make: Make, backend: str) -> None:
    state = prepared(make(), MLP)
    before = state.snapshot()
    whole = {name: np.arange(values.size).reshape(values.shape) % 7.0 for name, values in before.params.items()}
    given = {name: native(backend).weights(values) for name, values in whole.items()}
    state.load(dataclasses.replace(before, params=given))
    assert worst(dict(state.snapshot().params), whole) == 0


def test_a_state_without_an_optimizer_takes_over_one_in_training(make: Make) -> None:
    accelerator = make()
    trained = prepared(accelerator, RESNET9)
    accelerator.train_step(loss_fn)(trained, images(8))
    model = ct.models.build("resnet9", RESNET9, accelerator, seed=1)
    evaluated = accelerator.prepare(model)
    evaluated.load(trained.snapshot())
    evaluate = accelerator.eval_step(loss_fn)
    assert evaluate(evaluated, images(8))["loss"] == evaluate(trained, images(8))["loss"]


def test_running_statistics_of_another_model_are_refused(make: Make) -> None:
    state = prepared(make(), RESNET9)
    before = state.snapshot()
    with pytest.raises(ct.ConfigError, match=r"buffers must be those of this model, missing: .*running_mean"):
        state.load(dataclasses.replace(before, buffers={}))


def test_states_of_one_seed_are_independent(make: Make) -> None:
    accelerator = make()
    first, second = prepared(accelerator, MLP), prepared(accelerator, MLP)
    before = second.snapshot()
    accelerator.train_step(loss_fn)(first, images(8))
    assert worst(second.snapshot().params, before.params) == 0


def test_two_states_of_one_model(make: Make, backend: str) -> None:
    """JAX copies the model's arrays, so the states part ways; torch trains the module itself, so they are one."""
    accelerator = make()
    model = ct.models.build("mlp", MLP, accelerator)
    first, second = accelerator.prepare(model, ct.sgd(0.1)), accelerator.prepare(model, ct.sgd(0.1))
    before = second.snapshot()
    accelerator.train_step(loss_fn)(first, images(8))
    assert (worst(second.snapshot().params, before.params) == 0) == (backend == "jax")
    accelerator.train_step(loss_fn)(second, images(8))
    assert worst(second.snapshot().params, before.params) > 0


def test_running_statistics_change_in_training_only(make: Make) -> None:
    accelerator, batch = make(), images(16)
    state = prepared(accelerator, RESNET9)
    start = state.snapshot()
    accelerator.eval_step(loss_fn)(state, batch)
    accelerator.predict_step(logits_fn)(state, batch)
    assert worst(state.snapshot().buffers, start.buffers) == 0
    accelerator.train_step(loss_fn)(state, batch)
    assert all((state.snapshot().buffers[name] != values).any() for name, values in start.buffers.items())


def test_dropout_is_on_in_training_and_off_in_evaluation(make: Make) -> None:
    accelerator, batch = make(), images(16)
    state = prepared(accelerator, DROPOUT_MLP, ct.sgd(0.0))
    step, evaluate = accelerator.train_step(loss_fn), accelerator.eval_step(loss_fn)
    assert len({step(state, batch)["loss"] for _ in range(4)}) == 4
    assert len({evaluate(state, batch)["loss"] for _ in range(3)}) == 1


def test_dropout_masks_are_a_function_of_seed_and_step(make: Make) -> None:
    def losses(**options: Any) -> list[float]:
        accelerator = make(**options)
        model = ct.models.build("mlp", DROPOUT_MLP, accelerator, seed=0)
        state, step = accelerator.prepare(model, ct.sgd(0.0)), accelerator.train_step(loss_fn)
        return [step(state, images(8))["loss"] for _ in range(3)]

    assert losses(seed=1) == losses(seed=1)
    assert losses(seed=1) != losses(seed=2)


def test_a_users_own_model_trains(make: Make, backend: str) -> None:
    accelerator = make(precision="fp32")
    state = accelerator.prepare(native(backend).Small(), ct.adamw(1e-2))
    step, evaluate, batch = accelerator.train_step(loss_fn), accelerator.eval_step(loss_fn), images(64)
    before = evaluate(state, batch)["loss"]
    losses = [step(state, batch)["loss"] for _ in range(30)]
    assert evaluate(state, batch)["loss"] < 0.3 * before
    assert losses[-1] < losses[0]
    names = set(state.parameter_shapes)
    assert names == {
        f"{layer}.{kind}" for layer in ("conv", "norm", "layer_norm", "head") for kind in ("weight", "bias")
    }
    assert set(state.snapshot().buffers) == {"norm.running_mean", "norm.running_var"}
    assert state.parameter_shapes["conv.weight"] == (4, 1, 3, 3)
    assert state.parameter_shapes["head.weight"] == (10, 256)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_a_users_own_layers_follow_the_precision(make: Make, backend: str, precision: str) -> None:
    seen: dict[str, str] = {}

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["tokens"] if "tokens" in batch else batch["image"])
        seen["logits"] = str(logits.dtype)
        return ops.cross_entropy(logits, batch["label"])

    accelerator = make(precision=precision)
    kept = "float64" if precision == "fp64" else "float32"
    for model, batch in ((native(backend).Small(), images(32)), (native(backend).Tokens(), tokens(32))):
        state, step = accelerator.prepare(model, ct.adamw(1e-2)), accelerator.train_step(loss)
        losses = [step(state, batch)["loss"] for _ in range(20)]
        assert losses[-1] < losses[0]
        assert seen["logits"].endswith("bfloat16" if precision == "bf16" else kept)
        snapshot = state.snapshot()
        assert {str(values.dtype) for values in (*snapshot.params.values(), *snapshot.buffers.values())} == {kept}


def test_a_users_own_embedding_has_its_canonical_name_and_trains(make: Make, backend: str) -> None:
    accelerator = make()
    state = accelerator.prepare(native(backend).Tokens(), ct.sgd(1.0))
    before = state.snapshot().params
    assert state.parameter_shapes == {"embedding.weight": (32, 16), "norm.weight": (16,), "norm.bias": (16,)} | {
        "head.weight": (32, 16),
        "head.bias": (32,),
    }
    assert state.parameter_roles["embedding.weight"] == "embedding"
    accelerator.train_step(loss_fn)(state, {"tokens": np.full((4, 8), 5, np.int32), "label": tokens(4)["label"]})
    moved = np.abs(state.snapshot().params["embedding.weight"] - before["embedding.weight"]).max(1)
    assert np.flatnonzero(moved).tolist() == [5]


def test_a_users_own_dropout_draws_anew_at_every_step(make: Make, backend: str) -> None:
    accelerator = make(precision="fp32")
    state = accelerator.prepare(native(backend).Small(), ct.sgd(0.0))
    step = accelerator.train_step(loss_fn)
    assert len({step(state, images(16))["loss"] for _ in range(4)}) == 4


def test_the_users_module_after_prepare(make: Make, backend: str) -> None:
    accelerator = make(precision="fp32")
    model = native(backend).Small()
    state = accelerator.prepare(model, ct.sgd(0.1))
    accelerator.train_step(loss_fn)(state, images(8))
    if backend == "torch":
        assert state.model is model
        return
    # JAX copies: the user's own arrays outlive the donation of the state's.
    assert np.isfinite(np.asarray(model.head.kernel[...])).all()
    assert (np.asarray(model.head.kernel[...]) != np.asarray(state.model.head.kernel[...])).any()


def test_probe_changes_nothing_and_matches_the_gradients(make: Make) -> None:
    accelerator, batch = make(), images(16)
    state = prepared(accelerator, RESNET9)
    before = state.snapshot()
    probe = accelerator.probe_step(loss_fn)(state, batch)
    after = state.snapshot()
    assert worst(after.params, before.params) == worst(after.buffers, before.buffers) == 0
    metrics, gradients = accelerator.value_and_grad(loss_fn)(state, batch)
    assert probe.loss == pytest.approx(metrics["loss"], rel=1e-12)
    assert worst(dict(probe.gradients), gradients.to_host()) <= 1e-12
    assert {"prep.conv", "layer1.residual.0.norm", "head", ""} <= set(probe.activations)


def test_biases_are_known_by_any_of_their_names(make: Make, backend: str) -> None:
    """Of attention and recurrent layers, whose weight decay `undecayed` takes off; no weight is taken for one."""
    accelerator = make()
    state = accelerator.prepare(native(backend).Biased(), ct.adamw(0.1, weight_decay=0.1, groups=(ct.undecayed(),)))
    settings = state.parameter_settings()
    biases = {name for name in settings if "bias" in name}
    assert len(biases) > 5
    assert {name for name, role in state.parameter_roles.items() if role == "bias"} == biases
    assert {name for name, each in settings.items() if each.weight_decay == 0.0} == biases
