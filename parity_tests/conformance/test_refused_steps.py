"""What a step cannot use is refused with what was given and what to do, and leaves the state as it was."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import GPT, MLP, RESNET9, images, loss_fn, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


def test_training_without_an_optimizer(make: Make) -> None:
    accelerator = make()
    state = accelerator.prepare(ct.models.build("mlp", MLP, accelerator))
    accelerator.eval_step(loss_fn)(state, images(4))
    with pytest.raises(ct.ConfigError, match="prepared without an optimizer"):
        accelerator.train_step(loss_fn)(state, images(4))


def test_averaged_evaluation_without_an_average(make: Make) -> None:
    accelerator = make()
    with pytest.raises(ct.ConfigError, match=r"average=ct\.ema"):
        accelerator.eval_step(loss_fn, averaged=True)(prepared(accelerator, MLP), images(4))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda logits, ops: logits, r"loss must be a scalar, got shape \(4, 10\)"),
        (lambda logits, ops: "low", "loss must be a scalar array, got str"),
        (lambda logits, ops: (logits.sum(), 1.0, 2.0), r"must return a scalar, a Loss, or \(loss, dict of metrics\)"),
        (lambda logits, ops: (logits.sum(), {"logits": logits}), r"logits must be a scalar, got shape \(4, 10\)"),
        (lambda logits, ops: (logits.sum(), {"loss": logits.sum()}), "must not be called loss"),
        (lambda logits, ops: ct.Loss(logits, 1.0), r"loss.sum must be a scalar, got shape \(4, 10\)"),
    ],
    ids=["array", "string", "triple", "array metric", "reserved name", "array sum"],
)
def test_a_loss_that_is_not_a_scalar(make: Make, returned: Any, message: str) -> None:
    accelerator = make()
    step = accelerator.train_step(lambda model, batch, ops: returned(model(batch["image"]), ops))
    with pytest.raises(ct.LossError, match=message):
        step(prepared(accelerator, MLP), images(4))


def nan_from_step_2(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.mean((model(batch["image"]) ** 2).mean(-1) * batch["scale"])


def test_nan_stops_and_names_the_step(make: Make) -> None:
    accelerator = make(nan_policy="raise")
    state, step = prepared(accelerator, MLP, ct.sgd(1e-3)), accelerator.train_step(nan_from_step_2)
    batches = [{**images(4), "scale": np.full(4, np.nan if i == 2 else 1.0)} for i in range(5)]
    taken = []

    def train() -> None:
        for batch in batches:
            step(state, batch)
            taken.append(state.step)

    with pytest.raises(ct.NonFiniteLossError, match="got loss=nan at optimizer step 2") as caught:
        train()
    assert caught.value.step == 2
    assert taken == [1, 2, 3]  # found one step late: the device is never idle for the check
    assert state.step == 4  # and what it did meanwhile counts


def test_nan_in_the_last_step_is_found_by_the_trainer(make: Make) -> None:
    accelerator = make(nan_policy="raise")
    data = {**images(12), "scale": np.array([1.0] * 8 + [np.nan] * 4)}
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP, ct.sgd(1e-3)), nan_from_step_2, progress=False)
    with pytest.raises(ct.NonFiniteLossError, match="step 2"):
        trainer.fit(accelerator.loader(data, batch_size=4), epochs=1)


def test_nan_in_the_last_step_is_found_by_finish(make: Make) -> None:
    accelerator = make(nan_policy="raise")
    state, step = prepared(accelerator, MLP, ct.sgd(1e-3)), accelerator.train_step(nan_from_step_2)
    step(state, {**images(4), "scale": np.full(4, np.inf)})
    with pytest.raises(ct.NonFiniteLossError, match=r"got loss=inf at optimizer step 0. Lower the learning rate"):
        step.finish()
    step.finish()  # it was said once


def test_nan_is_let_through_when_asked_to(make: Make) -> None:
    accelerator = make()
    state, step = prepared(accelerator, MLP), accelerator.train_step(nan_from_step_2)
    values = [step(state, {**images(4), "scale": np.full(4, np.nan)})["loss"] for _ in range(3)]
    assert np.isnan(values).all()


@pytest.mark.parametrize(
    ("config", "batch", "message"),
    [
        (RESNET9, {"image": np.zeros((2, 8, 8, 1), np.uint8)}, "image must be floating, got .*uint8. Normalise it"),
        (RESNET9, {"image": np.zeros((2, 1, 8, 8))}, r"image must have shape \(B, 8, 8, 1\), got \(2, 1, 8, 8\)"),
        (MLP, {"image": np.zeros((2, 63))}, r"input must have shape \(B, 64\), got \(2, 63\)"),
        (MLP, {"image": np.zeros((2, 64), np.int64)}, "input must be floating, got .*int"),
        (GPT, {"tokens": np.zeros((2, 8))}, "tokens must be integers, got .*float"),
        (GPT, {"tokens": np.zeros((2, 9), np.int32)}, "at most max_seq_len=8 positions, got 9"),
    ],
    ids=["integer image", "channels first", "features", "integer features", "floating tokens", "too long"],
)
def test_model_inputs(make: Make, config: Any, batch: dict[str, Any], message: str) -> None:
    accelerator = make()
    labels = np.zeros(batch["tokens"].shape if "tokens" in batch else 2, np.int32)
    with pytest.raises(ct.ModelError, match=message):
        accelerator.eval_step(loss_fn)(prepared(accelerator, config), {**batch, "label": labels})


@pytest.mark.parametrize("batch", [[1, 2], {}, {"a": np.zeros(3), "b": np.zeros(4)}, {"a": np.array(["x"])}])
def test_batches_by_hand(make: Make, batch: Any) -> None:
    accelerator = make()
    with pytest.raises(ct.DataError, match="must"):
        accelerator.train_step(loss_fn)(prepared(accelerator, MLP), batch)


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), ()], ids=str)
def test_weights_that_are_not_one_number_per_example(make: Make, shape: tuple[int, ...]) -> None:
    accelerator = make()
    batch = {**images(4), "weight": np.ones(shape)}
    message = r"weight must have shape \(B,\), one number per example, got"
    with pytest.raises(ct.DataError, match=message):
        accelerator.train_step(loss_fn)(prepared(accelerator, MLP), batch)
    if shape:
        with pytest.raises(ct.DataError, match=message):
            next(iter(accelerator.loader(batch, batch_size=3)))


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_that_are_none(make: Make, weight: float) -> None:
    """With a negative one the loss is no mean, and what it is nobody would see."""
    accelerator = make()
    batch = {**images(4), "weight": np.array([1, 0, weight, 1])}
    message = f"weight must be finite and at least 0 for every example, got weight={weight} at index 2"
    with pytest.raises(ct.DataError, match=message):
        accelerator.train_step(loss_fn)(prepared(accelerator, MLP), batch)
    for given in (batch, [{name: values[row] for name, values in batch.items()} for row in range(4)]):
        with pytest.raises(ct.DataError, match=message):
            next(iter(accelerator.loader(given, batch_size=4)))


@pytest.mark.parametrize("options", [{}, {"accumulate_steps": 2}], ids=str)
@pytest.mark.parametrize(
    "loss", [lambda batch, ops: 0.0, lambda batch, ops: ops.mean(batch["image"])], ids=["0", "data"]
)
def test_a_loss_without_parameters(make: Make, backend: str, options: dict[str, Any], loss: Callable[..., Any]) -> None:
    """JAX knows the gradient of anything, which is 0 here; torch keeps none to go back from."""
    accelerator = make()
    step = accelerator.train_step(lambda model, batch, ops: loss(batch, ops), **options)
    state = prepared(accelerator, MLP)
    if backend == "torch":
        with pytest.raises(
            ct.LossError, match="a loss that depends on parameters that learn, got one without a gradient"
        ):
            step(state, images(4))
    else:
        step(state, images(4))
        assert state.step == 1


def test_a_batch_by_hand_in_which_nothing_counts(make: Make) -> None:
    accelerator = make()
    batch = {**images(4), "weight": np.zeros(4)}
    with pytest.raises(
        ct.DataError, match="the batch must hold an example whose weight is not 0, got 4 that all weigh 0"
    ):
        accelerator.train_step(loss_fn)(prepared(accelerator, MLP), batch)


def refused_steps() -> dict[str, tuple[type[ct.CrosstrainError], Callable[..., Any]]]:
    """What is refused -> the error, and a call that tries it with (accelerator, state)."""
    batch = images(8)
    return {
        "loss that is no scalar": (
            ct.LossError,
            lambda a, s: a.train_step(lambda model, batch, ops: model(batch["image"]))(s, batch),
        ),
        "bare mean of a padded batch": (
            ct.LossError,
            lambda a, s: a.train_step(lambda model, batch, ops: model(batch["image"]).mean())(
                s, {**batch, "weight": np.ones(8)}
            ),
        ),
        "micro-batches that do not divide": (
            ct.DataError,
            lambda a, s: a.train_step(loss_fn, accumulate_steps=3)(s, batch),
        ),
        "integer images": (
            ct.ModelError,
            lambda a, s: a.train_step(loss_fn)(s, {**batch, "image": np.zeros((8, 64), np.int32)}),
        ),
        "labels of another shape": (
            ct.LossError,
            lambda a, s: a.train_step(loss_fn)(s, {**batch, "label": np.zeros((8, 2), np.int32)}),
        ),
        "floating labels": (
            ct.LossError,
            lambda a, s: a.train_step(loss_fn)(s, {**batch, "label": np.zeros(8)}),
        ),
    }


@pytest.mark.parametrize("case", refused_steps())
def test_a_refused_step_leaves_the_state_as_it_was(make: Make, case: str) -> None:
    accelerator = make()
    error, attempt = refused_steps()[case]
    state, twin = prepared(accelerator, MLP), prepared(accelerator, MLP)
    with pytest.raises(error, match=r"must (be|have|return)"):
        attempt(accelerator, state)
    assert state.step == 0
    step = accelerator.train_step(loss_fn)
    assert step(state, images(8))["loss"] == step(twin, images(8))["loss"]
    assert worst(state.snapshot().params, twin.snapshot().params) == 0


def test_dropout_outside_a_step(make: Make) -> None:
    accelerator = make(precision="fp32")
    model = ct.models.build("mlp", dataclasses.replace(MLP, dropout=0.5), accelerator)
    batch = accelerator.to_device(tokens(2) | images(2))
    with pytest.raises(RuntimeError, match="call the model inside a crosstrain step"):
        model(batch["image"])
