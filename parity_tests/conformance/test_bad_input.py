"""Options, models, data and specs that cannot work are refused with what was given, expected, and what to do."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import MLP, images, loss_fn, native, prepared

Make = Callable[..., ct.Accelerator]


class Foreign:
    """Stands for the other framework's module, which need not be installed."""


Foreign.__module__ = "elsewhere.nn"


def test_unknown_backend() -> None:
    with pytest.raises(ct.BackendError, match="backend must be one of jax, torch, got backend='tensorflow'"):
        ct.Accelerator("tensorflow")


def test_another_engines_name_for_a_subclass(backend: str) -> None:
    other = {"jax": "torch", "torch": "jax"}[backend]
    with pytest.raises(ct.ConfigError, match=f"got backend='{other}'"):
        type(ct.Accelerator(backend))(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp64, fp32, bf16, bf16-autocast.*got precision='fp8'"),
        ({"nan_policy": "panic"}, "nan_policy must be 'ignore' or 'raise', got nan_policy='panic'"),
        ({"seed": "a"}, "seed must be an integer, got seed='a'"),
        ({"seed": 1.5}, "seed must be an integer, got seed=1.5"),
        ({"platform": "fpga"}, "platform must be cpu, gpu, tpu or None, got platform='fpga'"),
        ({"platform": "tpu"}, "platform must be .*got platform='tpu'"),
        (
            {"mesh": ct.MeshSpec(data=7)},
            r"multiply to the device count, got data=7 \(7 devices\) on 1. Set one axis to -1",
        ),
        (
            {"mesh": {"fsdp": 8}},
            "mesh must be an instance of MeshSpec, got mesh={'fsdp': 8}. Use for example ct.MeshSpec",
        ),
        ({"sharding": {"mlp": "fsdp"}}, "sharding must be an instance of ShardingRules, got"),
        ({"mesh": ct.MeshSpec(fsdp=2)}, r"must divide the device count, got .*fsdp=2 \(2 devices\) on 1"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_accelerator_options(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        make(**options)


def test_a_seed_may_be_an_integer_of_numpys(make: Make) -> None:
    seed = np.random.default_rng(0).integers(100)
    loader = make(seed=seed).loader({"x": np.arange(4)}, batch_size=2, shuffle=True)
    other = make().loader({"x": np.arange(4)}, batch_size=2, shuffle=True, seed=seed)
    assert loader.state_dict() == other.state_dict()
    assert [batch["x"].tolist() for batch in loader] == [batch["x"].tolist() for batch in other]
    with pytest.raises(ct.ConfigError, match="seed must be an integer, got seed='a'"):
        make().loader({"x": np.arange(4)}, batch_size=2, seed="a")


def test_a_model_of_another_framework(make: Make, backend: str) -> None:
    expected = {"jax": "flax.nnx.Module", "torch": "torch.nn.Module"}[backend]
    with pytest.raises(
        ct.ModelError, match=f"model must be a {expected} on the {backend} engine, got elsewhere.nn.Foreign"
    ):
        make().prepare(Foreign(), ct.sgd(0.1))


def test_a_model_of_the_other_engine_names_that_engine(make: Make, backend: str) -> None:
    other, module = {"jax": ("torch", "torch.nn"), "torch": ("jax", "flax.nnx")}[backend]
    model = type("Net", (), {"__module__": module})()
    with pytest.raises(ct.ModelError, match=rf"Use Accelerator\('{other}'\)"):
        make().prepare(model, ct.sgd(0.1))


def test_a_model_class_instead_of_an_instance(make: Make, backend: str) -> None:
    with pytest.raises(ct.ModelError, match=r"got the class Linear. Call it: Linear\(...\)"):
        make().prepare(native(backend).Linear, ct.sgd(0.1))


def test_a_native_optimizer_instead_of_a_spec(make: Make, backend: str) -> None:
    with pytest.raises(ct.ConfigError, match=r"optimizer must be an OptimizerSpec, got \w+. Use ct.sgd"):
        make().prepare(native(backend).Linear(), native(backend).optimizer())


def test_a_decay_instead_of_an_average(make: Make, backend: str) -> None:
    with pytest.raises(ct.ConfigError, match=r"average must be an instance of Averaging, got average=0.9.*ct.ema"):
        make().prepare(native(backend).Linear(), ct.sgd(0.1), average=0.9)  # type: ignore[arg-type]


def test_labels_out_of_range(make: Make) -> None:
    accelerator = make()
    data = {**images(8), "label": np.array([0, 1, 2, 3, 4, 5, 12, 7])}
    with pytest.raises(ct.DataError, match=r"label must be in \[0, 10\), got label=12 at index \[6\]"):
        accelerator.loader(data, batch_size=4, class_counts={"label": 10})
    # Where nobody counted the classes, the loss is NaN on both engines: no clamping, no crash of the device.
    assert np.isnan(accelerator.eval_step(loss_fn)(prepared(accelerator, MLP), data)["loss"])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({}, {}, "source must have at least one field"),
        ({"image": np.zeros((0, 64))}, {}, "source must have at least one example, got an empty one"),
        (
            images(3),
            {"drop_last": True},
            "source must fill one batch when drop_last=True, got 3 examples for batch_size=4",
        ),
        (images(3), {"batch_size": 0}, "batch_size must be at least 1, got batch_size=0"),
        (images(3), {"batch_size": 4.0}, "batch_size must be an integer, got batch_size=4.0"),
        (images(3), {"batch_size": None}, "batch_size must be given"),
        (np.zeros((4, 2)), {}, "source must name its fields, got a bare array"),
        (7, {}, "source must be a dict of arrays, indexable or iterable, got int"),
        (range(sys.maxsize), {}, "source must end, got one that repeats itself"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, {}, "same number of examples, got .*'a': 3, 'b': 4"),
    ],
    ids=[
        "no fields",
        "empty",
        "too few",
        "no batch",
        "half batch",
        "no size",
        "bare array",
        "number",
        "endless",
        "uneven",
    ],
)
def test_sources(make: Make, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.DataError, match=message):
        make().loader(source, **{"batch_size": 4, **options})


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((4, 3)), np.zeros(5, np.int32), r"logits of shape \(4, 3\) and labels of shape"),
        (np.zeros((4, 3)), np.zeros(4), "labels must be integers"),
        (np.zeros((4, 3), np.int32), np.zeros(4, np.int32), "logits must be floating"),
        (np.zeros((4, 0)), np.zeros(4, np.int32), r"logits must have shape \(B, ..., C\) with at least one class"),
    ],
    ids=["shape", "floating labels", "integer logits", "no classes"],
)
def test_cross_entropy_arguments(make: Make, logits: Any, labels: Any, message: str) -> None:
    accelerator = make()
    batch = accelerator.to_device({"logits": logits}), accelerator.to_device({"labels": labels})
    step = accelerator.eval_step(lambda model, _, ops: ops.cross_entropy(batch[0]["logits"], batch[1]["labels"]))
    with pytest.raises(ct.LossError, match=message):
        step(prepared(accelerator, MLP), images(4))


@pytest.mark.parametrize(
    ("size", "values"),
    [(4, lambda x: x.mean(0)[None]), (4, lambda x: x.reshape(-1)), (1, lambda x: x.reshape(-1))],
    ids=["a mean", "flat", "flat of one"],
)
def test_values_without_the_batch_dimension_where_examples_have_weights(make: Make, size: int, values: Any) -> None:
    """They would be another loss, or broadcast into one."""
    accelerator = make()
    batch = {"x": np.ones((size, 3)), "weight": np.ones(size)}
    step = accelerator.eval_step(lambda model, batch, ops: ops.mean(values(batch["x"])))
    with pytest.raises(ct.LossError, match=f"values must have one entry per example, got .* for a batch of {size}"):
        step(prepared(accelerator, MLP), batch)


def test_integers_of_the_other_byte_order(make: Make) -> None:
    accelerator = make()
    source = {"x": np.arange(3, dtype=">i4"), "y": np.arange(3, dtype=">u2"), "z": np.arange(3, dtype=">f4")}
    for workers in (0, 1):
        (batch,) = accelerator.loader(source, batch_size=3, workers=workers)
        assert all(np.asarray(values).tolist() == [0, 1, 2] for values in batch.values())


@pytest.mark.parametrize("given", [images(4), [images(4)], iter(())], ids=["source", "list", "iterator"])
def test_what_is_no_loader(make: Make, given: Any) -> None:
    accelerator = make()
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, progress=False)
    loader = accelerator.loader(images(4), batch_size=4)
    for call in (
        lambda: trainer.fit(given, epochs=1),
        lambda: trainer.fit(given, steps=1),
        lambda: trainer.fit(loader, epochs=1, eval_loader=given),
        lambda: trainer.fit_one_cycle(given, 1, 0.1),
        lambda: trainer.fine_tune(given, 1, 0.1),
        lambda: trainer.lr_find(given),
        lambda: trainer.evaluate(given),
        lambda: trainer.predict(given, lambda model, batch, ops: model(batch["image"])),
    ):
        with pytest.raises(ct.ConfigError, match=r"loader must be one that accelerator\.loader made, got"):
            call()
    assert trainer.state.step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": ct.callbacks.Recorder()}, r"callbacks must be a list of callbacks, got .*Recorder\(\)\]"),
        ({"callbacks": [ct.callbacks.Recorder]}, r"callbacks must be a list of callbacks, got .*Recorder\(\)\]"),
        ({"callbacks": [3]}, r"callbacks must be a list of callbacks, got \[3\]"),
        ({"trackers": ct.trackers.JsonLines("run.jsonl")}, "trackers must be a list of trackers"),
        ({"clip_norm": "1"}, "clip_norm must be positive or None, got clip_norm='1'"),
        ({"clip_value": "a"}, "clip_value must be positive or None, got clip_value='a'"),
        ({"layers": "layers"}, "layers must be a list of regular expressions, got 'layers'"),
        ({"layers": [3]}, r"layers must be a list of regular expressions, got \[3\]"),
    ],
    ids=["one callback", "a class", "a number", "one tracker", "norm", "value", "one layer", "no layers"],
)
def test_options_of_the_wrong_type(make: Make, options: dict[str, Any], message: str) -> None:
    accelerator = make()
    with pytest.raises(ct.ConfigError, match=message):
        ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, **options)


def test_a_model_instead_of_a_state(make: Make) -> None:
    accelerator = make()
    with pytest.raises(ct.ConfigError, match=r"state must be a TrainState, got .*accelerator\.prepare"):
        ct.Trainer(accelerator, ct.models.build("mlp", MLP, accelerator), loss_fn)


def test_what_is_no_accelerator(make: Make, backend: str) -> None:
    with pytest.raises(ct.ConfigError, match=f"accelerator must be an instance of Accelerator, got .*'{backend}'"):
        ct.Trainer(backend, prepared(make(), MLP), loss_fn)  # type: ignore[arg-type]


def test_what_is_no_snapshot(make: Make) -> None:
    state = prepared(make(), MLP)
    for given, shown in ((3, "3"), ({"layers.0.bias": [0] * 999}, r"\{'layers.{190,200}\.\.\.")):
        with pytest.raises(ct.ConfigError, match=rf"an instance of Snapshot, got snapshot={shown}\. Use .*replace"):
            state.load(given)  # type: ignore[arg-type]


def test_resuming_and_range_tests_without_their_specs(make: Make) -> None:
    accelerator = make()
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, progress=False)
    loader = accelerator.loader(images(4), batch_size=4)
    with pytest.raises(ct.ConfigError, match="checkpoints must be an instance of CheckpointSpec, got checkpoints=None"):
        trainer.resume(loader, epochs=1, checkpoints=None)  # type: ignore[arg-type]
    with pytest.raises(ct.ConfigError, match="test must be an instance of RangeTest, got test=3"):
        trainer.lr_find(loader, 3)  # type: ignore[arg-type]


def test_batch_norm_of_one_value(make: Make) -> None:
    accelerator = make()
    config = ct.models.ResNet9Config(width=2, image_size=8, in_channels=1)
    batch = {"image": np.zeros((1, 8, 8, 1), np.float32), "label": np.zeros(1, np.int32)}
    step = accelerator.train_step(lambda m, batch, ops: ops.cross_entropy(m(batch["image"]), batch["label"]))
    with pytest.raises(ct.ModelError, match="BatchNorm must have at least 2 values per channel to train on, got 1"):
        step(accelerator.prepare(ct.models.build("resnet9", config, accelerator), ct.sgd(0.1)), batch)


def test_micro_batches_that_do_not_divide(make: Make) -> None:
    accelerator = make()
    step = accelerator.train_step(loss_fn, accumulate_steps=4)
    with pytest.raises(ct.DataError, match=r"multiple of accumulate_steps .*got 6 examples"):
        step(prepared(accelerator, MLP), images(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either epochs or steps, got epochs=None and steps=None"),
        ({"epochs": 1, "steps": 1}, "give either epochs or steps, got epochs=1 and steps=1"),
        ({"epochs": 0}, "epochs must be at least 1, got epochs=0"),
        ({"steps": -1}, "steps must be at least 1, got steps=-1"),
        ({"epochs": "2"}, "epochs must be an integer, got epochs='2'"),
    ],
)
def test_lengths_of_training(make: Make, options: dict[str, int], message: str) -> None:
    accelerator = make()
    trainer = ct.Trainer(accelerator, prepared(accelerator, MLP), loss_fn, progress=False)
    loader = accelerator.loader(images(4), batch_size=4)
    with pytest.raises(ct.ConfigError, match=message):
        trainer.fit(loader, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_steps": 0},
        {"accumulate_steps": 2.0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"clip_value": 0.0},
        {"clip_value": float("nan")},
    ],
    ids=str,
)
def test_step_options(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(ct.ConfigError, match=f"got {next(iter(options))}={next(iter(options.values()))}"):
        make().train_step(loss_fn, **options)


def test_models_and_their_configs(make: Make) -> None:
    with pytest.raises(ct.ConfigError, match="model must be one of mlp, resnet9, gpt, got 'bert'"):
        ct.models.build("bert", None, make())
    with pytest.raises(ct.ConfigError, match="config must be a GPTConfig for model 'gpt', got MLPConfig"):
        ct.models.build("gpt", MLP, make())
    with pytest.raises(ct.ConfigError, match=r"weights must be of parameters of mlp, got head\.weight\. It has layers"):
        ct.models.build("mlp", MLP, make(), weights={"head.weight": np.zeros((10, 16))})
    with pytest.raises(ct.ConfigError, match=r"layers.0.weight must have shape \(16, 64\), got \(64, 16\)"):
        ct.models.build("mlp", MLP, make(), weights={"layers.0.weight": np.zeros((64, 16))})


def test_weights_that_are_given_take_the_place_of_drawn_ones(make: Make) -> None:
    accelerator, given = make(), np.arange(16.0 * 64).reshape(16, 64)
    model = ct.models.build("mlp", MLP, accelerator, weights={"layers.0.weight": given})
    found = accelerator.prepare(model, ct.sgd(0.1)).snapshot().params
    for name, drawn in MLP.initial_weights(accelerator.seed).items():
        np.testing.assert_array_equal(found[name], given if name == "layers.0.weight" else drawn)


@pytest.mark.parametrize(
    "spec",
    [
        lambda: ct.sgd(-0.1),
        lambda: ct.adamw(ct.one_cycle(0.1, 0)),
        lambda: ct.adam(1e-3, betas=(1.0, 0.9)),
        lambda: ct.sgd(0.1, nesterov=True),
        lambda: ct.sgd("fast"),
    ],
    ids=["negative rate", "zero steps", "beta", "nesterov", "string"],
)
def test_optimizer_specs(spec: Callable[[], Any]) -> None:
    with pytest.raises(ct.ConfigError, match=r"must be|needs"):
        spec()
