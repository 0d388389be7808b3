"""The DAWNBench recipe on both engines in float64: whitened, flipped in turns, growing images, averaged views."""

import functools
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.reference import resnet9 as reference
from parity_tests.tolerances import bound, difference

# The small case has one size, so it compiles one step; the other grows, and changes its images on the device.
CASES = [pytest.param("small"), pytest.param("growing", marks=pytest.mark.slow)]
EPOCHS = 3


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return ops.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.2)


def logits_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return model(batch["image"])


@functools.cache
def source() -> dict[str, np.ndarray]:
    """Digits as bytes in two channels, one of them shifted, so that channels are neither equal nor independent."""
    train = ct.data.digits().train
    grey = ((train["image"] - train["image"].min()) * 40).astype(np.uint8)[:128]
    return {"image": np.concatenate([grey, np.roll(grey, 1, axis=1)], axis=3), "label": train["label"][:128]}


@functools.cache
def run(backend: str, case: str) -> dict[str, Any]:
    """Trains for three epochs; what came out, and predictions over six views."""
    whitening, sizes, where = {"small": (2, (8, 8), "host"), "growing": (3, (8, 10), "device")}[case]
    accelerator = ct.Accelerator(backend, precision="fp64")
    normalise = ct.data.normalise(0.4, 0.3)
    augmented = (normalise, ct.data.random_crop(1), ct.data.alternating_flip(), ct.data.cutout(2))
    loader = ct.data.progressive(
        lambda size, _: accelerator.loader(
            source(),
            batch_size=64,
            shuffle=True,
            transform=ct.data.compose(ct.data.resize(size), *augmented),
            transform_on=where,
        ),
        [ct.data.Phase(epochs=1, size=sizes[0]), ct.data.Phase(epochs=2, size=sizes[1])],
        batch_size=64,
    )
    config = ct.models.ResNet9Config(width=3, image_size=None, in_channels=2, whitening=whitening)
    optimizer = ct.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    floats = ct.data.compose(normalise).apply(source(), context())["image"].astype(np.float64)
    filters = ct.data.whitening_filters(floats, whitening)
    model = ct.models.build("resnet9", config, accelerator, weights={"whiten.weight": filters})
    state = accelerator.prepare(model, optimizer, average=ct.lookahead(every=2))
    state.freeze("^whiten")
    trainer = ct.Trainer(accelerator, state, loss_fn, log_every=1, grad_norm=True, progress=False)
    trainer.fit_one_cycle(loader, EPOCHS, 0.1, cycle=ct.Cycle(momentum=None))
    views = ct.data.views(
        lambda view: accelerator.loader(source(), batch_size=50, transform=ct.data.compose(normalise, view))
    )
    one = accelerator.predict_step(logits_fn)
    return {
        "history": {name: trainer.history.values(name) for name in ("loss", "grad_norm")},
        "snapshot": state.snapshot(),
        "filters": filters,
        "predicted": trainer.predict(views, logits_fn)["prediction"],
        "views": [np.concatenate([one(state, batch)["prediction"] for batch in each]) for each in views.loaders],
        "weights": views.weights,
        "images": [np.concatenate([np.asarray(batch["image"]) for batch in each])[:128] for each in views.loaders],
    }


def context() -> Any:
    return ct.data.Context(seed=0, epoch=0, examples=np.arange(128))


@pytest.mark.parametrize("case", CASES)
def test_both_engines_train_alike(case: str) -> None:
    one, other = (run(backend, case) for backend in ("jax", "torch"))
    for name, quantity in (("loss", "loss"), ("grad_norm", "gradient")):
        assert len(one["history"][name]) == EPOCHS * 2
        assert difference(one["history"][name], other["history"][name]) <= bound(quantity)
    a, b = one["snapshot"], other["snapshot"]
    for found, expected in ((a.params, b.params), (a.averages, b.averages), (a.buffers, b.buffers)):
        assert found.keys() == expected.keys()
        assert max(difference(found[name], expected[name]) for name in expected) <= bound("weights")
    assert difference(one["predicted"], other["predicted"]) <= bound("activation")


@pytest.mark.parametrize("case", CASES)
def test_the_trained_model_is_the_reference_behind_filters_that_stood_still(backend: str, case: str) -> None:
    found = run(backend, case)
    snapshot = found["snapshot"]
    np.testing.assert_array_equal(snapshot.params["whiten.weight"], found["filters"])
    for images, logits in zip(found["images"], found["views"], strict=True):
        expected = reference.logits(snapshot.params, snapshot.buffers, images, head_scale=0.125)
        # Float32 images are cast before the model in the loader, so both begin with the same float64.
        assert images.dtype == np.float64
        assert difference(logits, expected) <= bound("activation")


def test_views_are_averaged_with_their_weights(backend: str) -> None:
    found = run(backend, "small")
    assert sum(found["weights"]) == 1.0
    assert found["weights"] == (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    plain, mirrored, up, _, down, down_mirrored = found["images"]
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
    np.testing.assert_array_equal(up[:, :-1, :-1], plain[:, 1:, 1:])
    np.testing.assert_array_equal(down[:, 1:, 1:], plain[:, :-1, :-1])
    np.testing.assert_array_equal(down_mirrored, down[:, :, ::-1])
    expected = sum(weight * logits for weight, logits in zip(found["weights"], found["views"], strict=True))
    np.testing.assert_allclose(found["predicted"], expected, rtol=1e-12, atol=1e-15)


def test_views_refuse_what_they_cannot_be(backend: str) -> None:
    loader = ct.Accelerator(backend).loader(source(), batch_size=8)
    with pytest.raises(ct.DataError, match="pixels must be at least 0, got pixels=-1"):
        ct.data.views(lambda view: loader, pixels=-1)
    with pytest.raises(ct.DataError, match="one weight for each loader, got 1 loaders and 2 weights"):
        ct.data.Views(loaders=(loader,), weights=(0.5, 0.5))
    assert len(ct.data.views(lambda view: loader, pixels=0).loaders) == 2
