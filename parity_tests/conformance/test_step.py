"""What a training step computes: exactly sum / weight over the global batch, at the rate of its schedule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import DROPOUT_MLP, GPT, MLP, RESNET9, images, loss_fn, native, prepared, tokens, worst

Make = Callable[..., ct.Accelerator]


def after_steps(accelerator: ct.Accelerator, config: Any, batch: Any, steps: int = 3, **options: Any) -> Any:
    state = prepared(accelerator, config)
    step = accelerator.train_step(loss_fn, **options)
    metrics = [step(state, batch) for _ in range(steps)]
    return state.snapshot(), metrics


def test_loss_falls_and_metrics_are_named(make: Make) -> None:
    snapshot, metrics = after_steps(make(), MLP, images(64), steps=20)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert set(metrics[0]) == {"loss", "accuracy", "learning_rate"}
    assert snapshot.step == 20


def test_metrics_belong_to_the_batch_they_were_computed_for(make: Make) -> None:
    """A loss function may report others for batches of other fields, also after programs for both are there."""

    def either(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["image"])
        if "label" in batch:
            return loss_fn(model, batch, ops)
        return ops.mse(logits, batch["target"]), {"mae": ops.mae(logits, batch["target"])}

    accelerator = make()
    state = prepared(accelerator, MLP)
    labelled = images(8)
    other = {"image": labelled["image"], "target": np.zeros((8, 10))}
    step = accelerator.train_step(either, clip_norm=1.0, accumulate_steps=2)
    gradients_of, evaluate = accelerator.value_and_grad(either), accelerator.eval_step(either)
    calls: list[Callable[[dict[str, Any]], Any]] = [
        lambda batch: step(state, batch),
        lambda batch: step.many(state, [batch, batch])[1],
        lambda batch: gradients_of(state, batch)[0],
        lambda batch: evaluate(state, batch),
    ]
    for call in calls:
        for batch, name in [(labelled, "accuracy"), (other, "mae")] * 2:
            assert call(batch).names[:2] == ("loss", name)


def test_metrics_stay_on_the_device_until_read(make: Make) -> None:
    _, metrics = after_steps(make(), MLP, images(8), steps=1)
    assert "on the device" in repr(metrics[0])
    assert isinstance(metrics[0]["loss"], float)
    assert "loss=" in repr(metrics[0])


@pytest.mark.parametrize("form", ["scalar", "Loss", "with metrics"])
def test_every_form_of_loss_gives_the_same_step(make: Make, form: str) -> None:
    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        value = ops.cross_entropy(model(batch["image"]), batch["label"])
        if form == "scalar":
            return value.sum / value.weight
        return value if form == "Loss" else (value, {})

    accelerator, batch = make(), images(16)
    expected, _ = after_steps(accelerator, MLP, batch)
    state = prepared(accelerator, MLP)
    step = accelerator.train_step(loss)
    for _ in range(3):
        step(state, batch)
    assert worst(state.snapshot().params, expected.params) <= 1e-12


@pytest.mark.parametrize("accumulate_steps", [2, 4])
@pytest.mark.parametrize("config", [MLP, DROPOUT_MLP, GPT], ids=["mlp", "dropout", "gpt"])
def test_accumulation_is_exact_with_uneven_weights(make: Make, config: Any, accumulate_steps: int) -> None:
    batch = tokens(16) if config is GPT else images(16)
    batch["weight"] = np.array([1.0] * 9 + [0.5] * 2 + [0.0] * 5)
    if config is GPT:
        batch["label"][::3, 5:] = -100
    once, one = after_steps(make(), config, batch, clip_norm=0.1)
    split, many = after_steps(make(), config, batch, clip_norm=0.1, accumulate_steps=accumulate_steps)
    assert worst(split.params, once.params) <= 1e-12
    for name in ("loss", "accuracy", "grad_norm"):
        assert many[-1][name] == pytest.approx(one[-1][name], rel=1e-12)


def test_no_gradient_flows_through_a_weight(make: Make) -> None:
    def gated(model: Any, batch: dict[str, Any], ops: ct.Ops) -> ct.Loss:
        logits = model(batch["image"])
        return ops.mean(logits[:, 1] ** 2, logits[:, 0] ** 2)

    found = []
    for steps in (1, 2):
        accelerator = make()
        state = prepared(accelerator, MLP, ct.sgd(0.1))
        step = accelerator.train_step(gated, accumulate_steps=steps, grad_norm=True)
        found.append(step(state, images(16))["grad_norm"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_accumulation_is_exact_without_weights(make: Make) -> None:
    """12 examples: 1 / 12 is no float32 number."""
    once, _ = after_steps(make(), MLP, images(12))
    split, _ = after_steps(make(), MLP, images(12), accumulate_steps=3)
    assert worst(split.params, once.params) <= 1e-12


def test_padding_is_as_if_it_were_not_there(make: Make) -> None:
    full = images(12)
    padded = {name: np.concatenate([values, values[:4]]) for name, values in full.items()}
    padded["weight"] = np.array([1.0] * 12 + [0.0] * 4)
    expected, a = after_steps(make(), MLP, full)
    found, b = after_steps(make(), MLP, padded)
    assert worst(found.params, expected.params) <= 1e-12
    assert b[-1]["accuracy"] == a[-1]["accuracy"]


def test_a_bare_mean_over_a_padded_batch_is_refused(make: Make) -> None:
    accelerator = make()
    step = accelerator.train_step(lambda model, batch, ops: (model(batch["image"]) ** 2).mean())
    with pytest.raises(ct.LossError, match="padded"):
        step(prepared(accelerator, MLP), {**images(4), "weight": np.ones(4)})


def test_clipping_bounds_the_gradient(make: Make) -> None:
    def moved(clip_norm: float | None) -> tuple[float, float]:
        accelerator = make()
        state = prepared(accelerator, MLP, ct.sgd(1.0))
        before = state.snapshot().params
        metrics = accelerator.train_step(loss_fn, clip_norm=clip_norm, grad_norm=True)(state, images(16))
        after = state.snapshot().params
        return np.sqrt(sum(np.sum((after[name] - before[name]) ** 2) for name in before)), metrics["grad_norm"]

    free, norm = moved(None)
    assert free == pytest.approx(norm, rel=1e-12)
    clipped, reported = moved(0.25 * norm)
    assert reported == pytest.approx(norm, rel=1e-12)
    assert clipped == pytest.approx(0.25 * norm, rel=1e-12)
    assert moved(2 * norm)[0] == pytest.approx(norm, rel=1e-12)


def test_schedule_counts_optimizer_steps_only(make: Make) -> None:
    accelerator = make()
    schedule = ct.linear(1.0, 4, warmup_steps=2)
    state = prepared(accelerator, MLP, ct.sgd(schedule))
    step = accelerator.train_step(loss_fn, accumulate_steps=4)
    rates = [step(state, images(16))["learning_rate"] for _ in range(5)]
    assert rates == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert (state.step, state.learning_rate) == (5, 0.0)


def test_gradients_and_their_application_are_the_step(make: Make) -> None:
    accelerator, batch = make(), images(16)
    expected, metrics = after_steps(accelerator, MLP, batch, clip_norm=0.5)
    state = prepared(accelerator, MLP)
    gradients_of = accelerator.value_and_grad(loss_fn)
    for one in metrics:
        values, gradients = gradients_of(state, batch)
        assert values["loss"] == pytest.approx(one["loss"], rel=1e-12)
        assert gradients.global_norm() == pytest.approx(one["grad_norm"], rel=1e-12)
        state.apply_gradients(gradients, clip_norm=0.5)
    assert state.step == 3
    assert worst(state.snapshot().params, expected.params) <= 1e-12


def test_other_states_take_part_without_learning(make: Make) -> None:
    accelerator = make()
    student, teacher = prepared(accelerator, MLP), prepared(accelerator, RESNET9)
    before = teacher.snapshot()

    def loss(model: Any, batch: Any, ops: ct.Ops, other: Any) -> Any:
        return ops.mse(model(batch["image"]), other(batch["image"]))

    step = accelerator.train_step(loss)
    losses = [step(student, images(16), teacher)["loss"] for _ in range(20)]
    after = teacher.snapshot()
    assert losses[-1] < losses[0]
    assert worst(after.params, before.params) == 0
    assert worst(after.buffers, before.buffers) == 0
    # The teacher's own training goes on unharmed.
    accelerator.train_step(loss_fn)(teacher, images(16))
    assert worst(teacher.snapshot().params, before.params) > 0


def test_a_parameter_that_nothing_uses_has_gradient_zero(make: Make, backend: str) -> None:
    accelerator = make()
    state = accelerator.prepare(native(backend).Linear(), ct.sgd(0.5, weight_decay=0.1))
    _, gradients = accelerator.value_and_grad(loss_fn)(state, images(4))
    assert not gradients.to_host()["unused"].any()
    accelerator.train_step(loss_fn)(state, images(4))
    assert state.snapshot().params["unused"] == pytest.approx(np.full(3, 0.95), rel=1e-12)


def test_averages_follow_the_weights(make: Make) -> None:
    accelerator, batch = make(), images(16)
    state = prepared(accelerator, MLP, average=ct.ema(0.75))
    step, expected = accelerator.train_step(loss_fn), dict(state.snapshot().params)
    for _ in range(3):
        step(state, batch)
        now = state.snapshot().params
        expected = {name: values + 0.25 * (now[name] - values) for name, values in expected.items()}
    assert worst(state.snapshot().averages, expected) <= 1e-12
    plain = accelerator.eval_step(loss_fn)(state, batch)["loss"]
    averaged = accelerator.eval_step(loss_fn, averaged=True)(state, batch)["loss"]
    state.load(ct.Snapshot(step=3, params=expected, buffers={}))
    assert accelerator.eval_step(loss_fn)(state, batch)["loss"] == pytest.approx(averaged, rel=1e-12)
    assert plain != averaged


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_low_precision_trains_with_float32_weights(make: Make, backend: str, precision: str) -> None:
    seen: dict[str, str] = {}

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["image"])
        seen["logits"] = str(logits.dtype)
        value = ops.cross_entropy(logits, batch["label"])
        seen["loss"] = str(value.sum.dtype)
        return value

    accelerator = make(precision=precision)
    for config in (MLP, RESNET9):
        state = prepared(accelerator, config)
        step = accelerator.train_step(loss)
        losses = [step(state, images(32))["loss"] for _ in range(20)]
        assert losses[-1] < 0.7 * losses[0]
        assert seen["logits"].endswith("bfloat16" if precision == "bf16" else "float32")
        assert seen["loss"].endswith("float32")
        assert {values.dtype for values in state.snapshot().params.values()} == {np.dtype("float32")}


def test_bf16_embeddings_stay_bf16(make: Make) -> None:
    seen: list[str] = []

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["tokens"])
        seen.append(str(logits.dtype))
        return ops.cross_entropy(logits, batch["label"])

    accelerator = make(precision="bf16")
    accelerator.train_step(loss)(prepared(accelerator, GPT), tokens(4))
    assert seen[0].endswith("bfloat16")


def test_autocast_is_torchs_alone(make: Make, backend: str) -> None:
    if backend == "jax":
        with pytest.raises(ct.ConfigError, match="autocast"):
            make(precision="bf16-autocast")
        return
    accelerator = make(precision="bf16-autocast")
    step, state = accelerator.train_step(loss_fn), prepared(accelerator, MLP)
    losses = [step(state, images(32))["loss"] for _ in range(10)]
    assert losses[-1] < losses[0]


def test_a_native_torch_loss_finds_the_integers_it_wants(make: Make, backend: str) -> None:
    data = {**images(16), "label": images(16)["label"].astype(np.int64)}
    accelerator = make()
    batch = next(iter(accelerator.loader(data, batch_size=16)))
    assert str(batch["label"].dtype).endswith("int64" if backend == "torch" else "int32")


def test_a_batch_that_is_partly_on_the_host_is_placed(make: Make) -> None:
    accelerator = make()
    state, step = prepared(accelerator, MLP), accelerator.train_step(loss_fn)
    expected = step(state, images(8))["loss"]
    mixed = {**accelerator.to_device(images(8)), "label": images(8)["label"]}
    assert accelerator.train_step(loss_fn)(prepared(accelerator, MLP), mixed)["loss"] == expected


def test_losses_are_not_added_by_accident(make: Make) -> None:
    accelerator = make()

    def loss(model: Any, batch: Any, ops: ct.Ops) -> Any:
        value = ops.cross_entropy(model(batch["image"]), batch["label"])
        return value + value

    with pytest.raises(ct.LossError, match=r"got a \+ b of a Loss"):
        accelerator.train_step(loss)(prepared(accelerator, MLP), images(4))


def test_the_option_for_torch_compile_is_taken_by_every_engine(make: Make) -> None:
    accelerator = make()
    accelerator.train_step(loss_fn, compile="step")
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, compile="model", progress=False)
    assert trainer.options.compile == "model"
    with pytest.raises(ct.ConfigError, match="compile must be False, 'model' or 'step', got compile=True"):
        accelerator.train_step(loss_fn, compile=True)  # type: ignore[arg-type]
