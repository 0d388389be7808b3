"""Loops written by hand over several states: who learns, who stands still, and whose step a mask belongs to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import DROPOUT_MLP, MLP, RESNET9, images, loss_fn, native, prepared, worst

Make = Callable[..., ct.Accelerator]
GENERATOR = ct.models.MLPConfig(in_features=4, hidden=(16,), out_features=64)
JUDGE = dataclasses.replace(RESNET9, num_classes=1)
QUICK_JUDGE = dataclasses.replace(MLP, out_features=1)


def fooling(generator: Any, batch: Any, ops: ct.Ops, judge: Any) -> Any:
    logits = judge(generator(batch["noise"]).reshape(-1, 8, 8, 1))
    return ops.bce_with_logits(logits, ops.ones_like(logits))


def judging(judge: Any, batch: Any, ops: ct.Ops, generator: Any) -> Any:
    real, drawn = judge(batch["image"]), judge(generator(batch["noise"]).reshape(-1, 8, 8, 1))
    on_real = ops.bce_with_logits(real, ops.ones_like(real))
    on_drawn = ops.bce_with_logits(drawn, ops.zeros_like(drawn))
    return ct.Loss(on_real.sum + on_drawn.sum, on_real.weight + on_drawn.weight), {"on_real": on_real}


def imitating(model: Any, batch: Any, ops: ct.Ops, teacher: Any) -> Any:
    return ops.mse(model(batch["image"]), teacher(batch["image"]))


def changed(after: ct.Snapshot, before: ct.Snapshot) -> bool:
    return worst(after.params, before.params) > 0 or bool(before.buffers and worst(after.buffers, before.buffers) > 0)


def test_two_states_that_train_each_other_change_only_in_their_own_turn(make: Make) -> None:
    accelerator = make()
    generator, judge = prepared(accelerator, GENERATOR, ct.adam(1e-2)), prepared(accelerator, JUDGE)
    batch = images(8) | {"noise": np.random.default_rng(0).normal(size=(8, 4))}
    turns = [(judge, generator, judging), (generator, judge, fooling)]
    steps = [accelerator.value_and_grad(loss) for _, _, loss in turns]
    for _ in range(2):
        for (learner, other, _), gradients_of in zip(turns, steps, strict=True):
            before = learner.snapshot(), other.snapshot()
            metrics, gradients = gradients_of(learner, batch, other)
            assert worst(learner.snapshot().params, before[0].params) == 0
            learner.apply_gradients(gradients)
            assert changed(learner.snapshot(), before[0])
            assert not changed(other.snapshot(), before[1])
            assert np.isfinite(metrics["loss"])
    assert (generator.step, judge.step) == (2, 2)


def test_metrics_of_a_custom_loop_are_named_and_weighted(make: Make) -> None:
    accelerator = make()
    generator, judge = prepared(accelerator, GENERATOR), prepared(accelerator, QUICK_JUDGE)
    noise = np.random.default_rng(0).normal(size=(8, 4))
    batch = images(8) | {"noise": noise, "weight": np.array([1.0] * 6 + [0.0] * 2)}
    metrics, _ = accelerator.value_and_grad(judging)(judge, batch, generator)
    assert set(metrics) == {"loss", "on_real"}
    assert "on the device" in repr(metrics)
    assert metrics.sums()[:, 1].tolist() == [12.0, 6.0]


def test_dropout_of_a_teacher_follows_the_state_in_training(make: Make) -> None:
    """A teacher's own count stands still; masks that followed it would be the same at every step."""

    def losses(teacher_steps: int) -> list[float]:
        accelerator = make()
        student, teacher = prepared(accelerator, MLP, ct.sgd(0.0)), prepared(accelerator, DROPOUT_MLP, ct.sgd(0.0))
        own = accelerator.train_step(loss_fn)
        for _ in range(teacher_steps):
            own(teacher, images(16))
        step = accelerator.train_step(imitating)
        return [step(student, images(16), teacher)["loss"] for _ in range(3)]

    assert len(set(losses(0))) == 3
    assert losses(2) == losses(0)


def test_evaluation_with_others_has_no_dropout_and_changes_nothing(make: Make) -> None:
    accelerator = make()
    student, teacher = prepared(accelerator, RESNET9), prepared(accelerator, DROPOUT_MLP)
    before = student.snapshot(), teacher.snapshot()
    evaluate = accelerator.eval_step(imitating)
    assert len({evaluate(student, images(16), teacher)["loss"] for _ in range(3)}) == 1
    found = accelerator.predict_step(lambda model, batch, ops, other: model(batch["image"]) - other(batch["image"]))
    difference = found(student, images(16), teacher)["prediction"]
    assert np.square(difference).mean() == pytest.approx(evaluate(student, images(16), teacher)["loss"], rel=1e-12)
    assert not changed(student.snapshot(), before[0])
    assert not changed(teacher.snapshot(), before[1])


def test_gradients_from_the_host_are_those_from_the_device(make: Make) -> None:
    accelerator, batch = make(), images(16)
    first, second = prepared(accelerator, RESNET9), prepared(accelerator, RESNET9)
    _, gradients = accelerator.value_and_grad(loss_fn)(first, batch)
    second.apply_gradients(second.to_gradients(gradients.to_host()), clip_norm=0.5)
    first.apply_gradients(gradients, clip_norm=0.5)
    assert worst(second.snapshot().params, first.snapshot().params) == 0


def test_a_probe_has_the_gradients_of_a_step_also_for_a_weight_that_parameters_decide(make: Make) -> None:
    def confident(model: Any, batch: Any, ops: ct.Ops) -> ct.Loss:
        logits = model(batch["image"])
        return ct.Loss(ops.cross_entropy(logits, batch["label"]).sum, (logits**2).sum())

    accelerator, batch = make(), images(16)
    state = prepared(accelerator, MLP)
    expected = accelerator.value_and_grad(confident)(state, batch)[1].to_host()
    assert worst(dict(accelerator.probe_step(confident)(state, batch).gradients), expected) <= 1e-12


def test_several_steps_share_one_state(make: Make) -> None:
    """A warm-up loss, then another, then gradients by hand: each continues where the one before stopped."""
    accelerator, batch = make(), images(16)
    state = prepared(accelerator, MLP, ct.sgd(ct.linear(0.1, 3)))
    smooth = accelerator.train_step(
        lambda model, batch, ops: ops.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.1)
    )
    rates = [smooth(state, batch)["learning_rate"], accelerator.train_step(loss_fn)(state, batch)["learning_rate"]]
    before = state.snapshot()
    _, gradients = accelerator.value_and_grad(loss_fn)(state, batch)
    host = gradients.to_host()
    state.apply_gradients(gradients)
    assert rates == pytest.approx([0.1, 0.1 * 2 / 3], rel=1e-12)
    expected = {name: values - 0.1 / 3 * host[name] for name, values in before.params.items()}
    assert worst(state.snapshot().params, expected) <= 1e-12


def test_a_users_own_models_can_train_each_other(make: Make, backend: str) -> None:
    accelerator = make(precision="fp32")
    student = accelerator.prepare(native(backend).Linear(), ct.sgd(0.05))
    teacher = accelerator.prepare(native(backend).Small())
    before, step = teacher.snapshot(), accelerator.train_step(imitating)
    losses = [step(student, images(32), teacher)["loss"] for _ in range(20)]
    assert losses[-1] < losses[0]
    assert not changed(teacher.snapshot(), before)


@pytest.mark.parametrize("call", ["train", "gradients", "evaluate", "predict"])
def test_a_model_in_the_place_of_a_state_is_refused(make: Make, call: str) -> None:
    accelerator = make()
    model = ct.models.build("mlp", MLP, accelerator)
    run = {
        "train": accelerator.train_step(loss_fn),
        "gradients": accelerator.value_and_grad(loss_fn),
        "evaluate": accelerator.eval_step(loss_fn),
        "predict": accelerator.predict_step(lambda model, batch, ops: model(batch["image"])),
    }[call]
    with pytest.raises(ct.ConfigError, match=r"state must be a TrainState, got MLP. Prepare the model"):
        run(model, images(4))
    with pytest.raises(ct.ConfigError, match=r"state must be a TrainState, got MLP. Prepare the model"):
        run(prepared(accelerator, MLP), images(4), model)


@pytest.mark.parametrize("call", ["train", "gradients"])
def test_a_state_that_would_learn_from_itself_is_refused_and_unharmed(make: Make, call: str) -> None:
    accelerator = make()
    state = prepared(accelerator, MLP)
    before = state.snapshot()
    run = accelerator.train_step(imitating) if call == "train" else accelerator.value_and_grad(imitating)
    with pytest.raises(ct.ConfigError, match="others than the one in training"):
        run(state, images(4), state)
    assert not changed(state.snapshot(), before)
    accelerator.train_step(loss_fn)(state, images(4))
    assert changed(state.snapshot(), before)


def test_gradients_of_another_model_are_refused(make: Make) -> None:
    accelerator = make()
    wide = prepared(accelerator, dataclasses.replace(MLP, hidden=(32,)))
    _, gradients = accelerator.value_and_grad(loss_fn)(wide, images(4))
    for config in (MLP, RESNET9):
        with pytest.raises(ct.ConfigError, match="gradients must be those of this state's parameters"):
            prepared(accelerator, config).apply_gradients(gradients)
    with pytest.raises(ct.ConfigError, match="got dict of others"):
        wide.apply_gradients(gradients.to_host())
    wide.apply_gradients(gradients)
    assert wide.step == 1
