"""Transforms: what each does to pixels and labels, and that its random numbers belong to the example."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import crosstrain as ct
from crosstrain import data
from crosstrain.data.mixing import beta
from crosstrain.data.transform import Context

rng = np.random.default_rng(0)


def context(examples, source=None, seed=3, epoch=2, stream=""):
    return Context(
        seed=seed,
        epoch=epoch,
        examples=np.asarray(examples),
        example_count=None if source is None else len(next(iter(source.values()))),
        load=None if source is None else lambda rows: {name: values[rows] for name, values in source.items()},
        stream=stream,
    )


def apply(transform, fields, examples=None, **options):
    """The transform as a loader applies it, to the rows `examples` of a source `fields`."""
    examples = np.arange(len(next(iter(fields.values())))) if examples is None else np.asarray(examples)
    rows = {name: values[examples] for name, values in fields.items()}
    before = {name: values.copy() for name, values in rows.items()}
    result = data.compose(transform).apply(rows, context(examples, fields, **options))
    for name, values in before.items():
        np.testing.assert_array_equal(rows[name], values, err_msg="the given batch stays as it is")
    return result


def images(count=40, height=9, width=7, channels=3, dtype=np.float32):
    if np.dtype(dtype).kind == "f":
        return rng.random((count, height, width, channels)).astype(dtype)
    return rng.integers(0, 256, (count, height, width, channels)).astype(dtype)


def source_of(dtype=np.float32, **sizes):
    pixels = images(dtype=dtype, **sizes)
    return {"image": pixels, "label": np.arange(len(pixels)) % 4}


EVERY = {
    "normalise": (data.normalise([0.5, 0.4, 0.3], 0.2), np.uint8),
    "reflect": (data.random_crop(2), np.uint8),
    "zeros": (data.random_crop(3, mode="zeros"), np.float32),
    "flip": (data.flip(), np.uint8),
    "alternating_flip": (data.alternating_flip(), np.uint8),
    "translate": (data.translate(-1, 2), np.uint8),
    "cutout": (data.cutout(4), np.float32),
    "mixup": (data.mixup(0.4, classes=4), np.float32),
    "cutmix": (data.cutmix(classes=4), np.float64),
    "jitter": (data.colour_jitter(brightness=0.4, contrast=0.3, saturation=0.2), np.uint8),
    "float-jitter": (data.colour_jitter(brightness=0.4, contrast=0.3, saturation=0.2), np.float32),
    "resize": (data.resize((5, 11)), np.uint8),
    "all": (
        data.compose(
            data.random_crop(2), data.flip(), data.flip(0.2), data.normalise(0.5, 0.2), data.mixup(), data.cutmix()
        ),
        np.uint8,
    ),
}


# Random numbers belong to the example.


@pytest.mark.parametrize("name", EVERY)
def test_an_example_is_augmented_alike_in_any_batch(name):
    transform, dtype = EVERY[name]
    source = source_of(dtype)
    whole = apply(transform, source)
    order = rng.permutation(40)
    for part in (order[:1], order[1:18], order[18:], np.array([5, 5, 5, 0])):
        for field, values in apply(transform, source, part).items():
            np.testing.assert_array_equal(values, whole[field][part], err_msg=field)


# What draws no numbers, or the same in every other epoch.
STEADY = ("normalise", "translate", "resize", "alternating_flip")


@pytest.mark.parametrize("name", [name for name in EVERY if name not in STEADY])
@pytest.mark.parametrize("changed", [{"epoch": 3}, {"seed": 4}, {"epoch": 2**33}])
def test_another_epoch_or_seed_augments_otherwise(name, changed):
    transform, dtype = EVERY[name]
    source = source_of(dtype)
    assert not np.array_equal(apply(transform, source)["image"], apply(transform, source, **changed)["image"])


def test_two_transforms_of_one_name_draw_their_own_numbers():
    source = source_of()
    seen = []
    probe = type("Probe", (data.Transform,), {"apply": lambda self, f, c: (seen.append(c.uniform(2)), f)[1]})
    apply(data.compose(probe(), data.flip(), data.compose(probe(), probe())), source)
    assert len({values.tobytes() for values in seen}) == 3


def test_adding_a_transform_leaves_the_numbers_of_the_others():
    source = source_of()
    alone = apply(data.cutout(3), source)["image"]
    after = apply(data.compose(lambda fields: fields, data.normalise(0, 1), data.cutout(3)), source)["image"]
    np.testing.assert_array_equal(alone, after)


# Pixels.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_normalise(dtype):
    pixels = images(dtype=dtype)
    mean, std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
    white = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    result = apply(data.normalise(mean, std), {"image": pixels})["image"]
    assert result.dtype == (dtype if white == 1 else np.float32)
    expected = (pixels.astype(np.float64) / white - mean) / std
    np.testing.assert_allclose(result, expected, atol=1e-5 if result.dtype == np.float32 else 1e-14)


sizes = st.tuples(st.integers(0, 5), st.integers(2, 9), st.integers(2, 9), st.integers(1, 4))
pixels_of_any_shape = sizes.flatmap(lambda shape: arrays(np.uint8, shape)) | sizes.flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
)


@given(pixels_of_any_shape, st.integers(1, 6), st.sampled_from(["reflect", "zeros"]))
def test_a_crop_is_a_window_of_the_padded_image(pixels, padding, mode):
    height, width = pixels.shape[1:3]
    if mode == "reflect" and padding >= min(height, width):
        with pytest.raises(ct.DataError, match="padding must be less than the side"):
            apply(data.random_crop(padding), {"image": pixels})
        return
    result = apply(data.random_crop(padding, mode=mode), {"image": pixels})["image"]
    assert (result.shape, result.dtype) == (pixels.shape, pixels.dtype)
    offsets = np.floor(context(np.arange(len(pixels)), stream="random_crop").uniform(2) * (2 * padding + 1)).astype(int)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(pixels, sides, mode="reflect" if mode == "reflect" else "constant")
    for row, (top, left) in enumerate(offsets):
        np.testing.assert_array_equal(result[row], padded[row, top : top + height, left : left + width])


def test_crops_reach_every_offset():
    ramp = np.broadcast_to(np.arange(25.0).reshape(1, 5, 5, 1), (2000, 5, 5, 1))
    centres = apply(data.random_crop(2), {"image": ramp})["image"][:, 2, 2, 0]
    counts = np.bincount(centres.astype(int), minlength=25)
    assert counts.min() > 40, "80 are expected of each"


@given(pixels_of_any_shape, st.sampled_from([0.0, 0.3, 1.0]))
def test_a_flip_mirrors_or_keeps(pixels, probability):
    result = apply(data.flip(probability), {"image": pixels})["image"]
    flipped = context(np.arange(len(pixels)), stream="flip").uniform(1)[:, 0] < probability
    expected = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    np.testing.assert_array_equal(result, expected)


def test_an_alternating_flip_shows_both_ways_in_two_epochs():
    source = source_of(count=200)
    pixels = source["image"]
    shown = [apply(data.alternating_flip(), source, epoch=epoch)["image"] for epoch in range(4)]
    mirrored = [(each == pixels[:, :, ::-1]).all((1, 2, 3)) for each in shown]
    for each, flipped in zip(shown, mirrored, strict=True):
        np.testing.assert_array_equal(each, np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels))
    assert 70 < mirrored[0].sum() < 130, "a half is expected"
    np.testing.assert_array_equal(mirrored[1], ~mirrored[0])
    np.testing.assert_array_equal(mirrored[2:], mirrored[:2])
    other = apply(data.alternating_flip(), source, epoch=0, seed=4)["image"]
    assert not np.array_equal(other, shown[0])
    assert not np.array_equal(other, shown[1])


@given(pixels_of_any_shape, st.integers(-3, 3), st.integers(-3, 3), st.sampled_from(["reflect", "zeros"]))
def test_translate_moves_all_images_alike(pixels, down, right, mode):
    height, width = pixels.shape[1:3]
    transform, pad = data.translate(down, right, mode=mode), max(abs(down), abs(right))
    if mode == "reflect" and pad >= min(height, width):
        with pytest.raises(ct.DataError, match="padding must be less than the side"):
            apply(transform, {"image": pixels})
        return
    sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(pixels, sides, mode="reflect" if mode == "reflect" else "constant")
    expected = padded[:, pad - down : pad - down + height, pad - right : pad - right + width]
    np.testing.assert_array_equal(apply(transform, {"image": pixels})["image"], expected)


@given(pixels_of_any_shape, st.integers(1, 12), st.sampled_from([0, 0.5]))
def test_cutout_covers_a_clipped_square(pixels, size, fill):
    result = apply(data.cutout(size, fill=fill), {"image": pixels})["image"]
    height, width = pixels.shape[1:3]
    centres = np.floor(context(np.arange(len(pixels)), stream="cutout").uniform(2) * (height, width)).astype(int)
    expected = pixels.copy()
    for row, (y, x) in enumerate(centres - size // 2):
        expected[row, max(y, 0) : max(y + size, 0), max(x, 0) : max(x + size, 0)] = fill
    np.testing.assert_array_equal(result, expected)


# torch 2.13 gives wrong rows for tensors of one column or one channel, so there are two at least.
@given(
    arrays(
        np.float64,
        st.tuples(st.just(2), st.integers(1, 12), st.integers(2, 12), st.integers(2, 3)),
        elements=st.floats(-1, 1),
    ),
    st.integers(1, 15),
    st.integers(2, 15),
    st.booleans(),
)
def test_resize_equals_torch(pixels, height, width, antialias):
    result = apply(data.resize((height, width), antialias=antialias), {"image": pixels})["image"]
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    expected = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=antialias)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 13), (20, 3)])
def test_resize_rounds_integers(height, width):
    pixels = images(dtype=np.uint8)
    exact = apply(data.resize((height, width)), {"image": pixels.astype(np.float64)})["image"]
    result = apply(data.resize((height, width)), {"image": pixels})["image"]
    assert result.dtype == np.uint8
    assert np.abs(result - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32])
@pytest.mark.parametrize("transform", [data.resize(7), data.colour_jitter(brightness=0.5)], ids=["resize", "jitter"])
def test_white_stays_white(transform, dtype):
    """Of 32 bits no float32 is the largest value, and the next larger one is no such integer."""
    white = np.iinfo(dtype).max
    result = apply(transform, {"image": np.full((8, 4, 4, 3), white, dtype)})["image"]
    assert result.dtype == dtype
    assert (result > 0.4 * white).all()
    assert result.max() >= (1 - 1e-7) * white


def test_resize_grows_with_the_epoch():
    progressive = data.resize(lambda epoch: 4 + 2 * epoch)
    shapes = [apply(progressive, source_of(), epoch=epoch)["image"].shape[1:3] for epoch in range(3)]
    assert shapes == [(4, 4), (6, 6), (8, 8)]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), *[st.integers(1, 5)] * 2, st.just(3)), elements=st.floats(0, 1)),
    *[st.sampled_from([0.0, 0.4, 1.5])] * 3,
)
def test_colour_jitter_follows_its_formulas(pixels, brightness, contrast, saturation):
    jitter = data.colour_jitter(brightness=brightness, contrast=contrast, saturation=saturation)
    result = apply(jitter, {"image": pixels})["image"]
    draws = context(np.arange(len(pixels)), stream="colour_jitter").uniform(3)
    for row, image in enumerate(pixels):
        low = np.maximum(0, 1 - np.array([brightness, contrast, saturation]))
        b, c, s = low + draws[row] * (1 + np.array([brightness, contrast, saturation]) - low)
        luma = np.array([0.299, 0.587, 0.114])
        expected = np.clip(b * image, 0, 1)
        expected = np.clip(c * expected + (1 - c) * (expected @ luma).mean(), 0, 1)
        expected = np.clip(s * expected + (1 - s) * (expected @ luma)[..., None], 0, 1)
        np.testing.assert_allclose(result[row], expected, atol=1e-12)


def test_colour_jitter_of_nothing_keeps_integers():
    pixels = images(dtype=np.uint8)
    np.testing.assert_array_equal(apply(data.colour_jitter(), {"image": pixels})["image"], pixels)


# Mixing.


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0])
def test_shares_are_beta_distributed(alpha):
    share = beta(context(np.arange(40_000), stream="mixup"), alpha)
    grid = np.linspace(0.05, 0.95, 19)
    expected = torch.distributions.Beta(alpha, alpha).sample  # an independent sampler, seeded
    torch.manual_seed(0)
    other = expected((400_000,)).numpy()
    for point in grid:
        assert abs((share < point).mean() - (other < point).mean()) < 0.01
    assert np.all((share >= 0) & (share <= 1))


@pytest.mark.parametrize("kind", [data.mixup, data.cutmix])
def test_mixed_images_labels_and_targets_follow_the_papers(kind):
    source = {"image": np.arange(30.0)[:, None, None, None] + np.zeros((1, 8, 6, 1)), "label": np.arange(30) % 4}
    mixed = apply(kind(1.0, classes=4), source)
    name = kind.__name__
    partner = np.floor(context(np.arange(30), stream=name).uniform(1, "partner")[:, 0] * 30).astype(int)
    np.testing.assert_array_equal(mixed["label"], source["label"])
    np.testing.assert_array_equal(mixed["partner_label"], source["label"][partner])
    mean = mixed["image"].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(mean, mixed["mix"] * np.arange(30) + (1 - mixed["mix"]) * partner, atol=1e-12)
    target = np.exp(mixed["log_target"])
    expected = mixed["mix"][:, None] * np.eye(4)[source["label"]]
    expected += (1 - mixed["mix"])[:, None] * np.eye(4)[source["label"][partner]]
    np.testing.assert_allclose(target, expected, atol=1e-15)
    if kind is data.cutmix:
        own = mixed["image"][..., 0] == np.arange(30.0)[:, None, None]
        other = mixed["image"][..., 0] == partner[:, None, None]
        assert (own | other).all(), "every pixel is one or the other"
        assert 0 < mixed["mix"].min() < 0.5 < mixed["mix"].max() <= 1


def test_a_partner_comes_through_the_transforms_before_with_its_own_numbers():
    source = source_of(np.uint8)
    before = data.compose(data.random_crop(2), data.flip(), data.normalise(0.5, 0.2))
    plain = apply(before, source)["image"]
    mixed = apply(data.compose(before, data.mixup(1.0)), source)
    partner = np.floor(context(np.arange(40), stream="mixup").uniform(1, "partner")[:, 0] * 40).astype(int)
    share = mixed["mix"].astype(np.float32)[:, None, None, None]
    np.testing.assert_array_equal(mixed["image"], share * plain + (1 - share) * plain[partner])


@pytest.mark.parametrize("kind", [data.mixup, data.cutmix])
def test_mixing_happens_with_its_probability(kind):
    mixed = apply(kind(1.0, probability=0.25), source_of(count=2000, height=6, width=6))
    assert 0.2 < (mixed["mix"] < 1).mean() < 0.28
    kept = apply(kind(1.0, probability=0.0), source_of())
    assert (kept["mix"] == 1).all()


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.normalise(0, 0), "std must be positive"),
        (lambda: data.normalise(0, float("nan")), "std must be positive"),
        (lambda: data.random_crop(0), "padding=0"),
        (lambda: data.random_crop(1, mode="wrap"), "mode='wrap'"),
        (lambda: data.flip(1.5), "probability=1.5"),
        (lambda: data.translate(0.5, 1), "down must be an integer, got down=0.5"),
        (lambda: data.translate(1, 1, mode="wrap"), "mode must be 'reflect' or 'zeros', got mode='wrap'"),
        (lambda: data.cutout(2.0), "size=2.0"),
        (lambda: data.mixup(0), "alpha=0"),
        (lambda: data.cutmix(probability=-1), "probability=-1"),
        (lambda: data.mixup(classes=0), "classes=0"),
        (lambda: data.colour_jitter(contrast=-0.1), "contrast=-0.1"),
        (lambda: data.resize(0), "size=0"),
        (lambda: data.resize((1, 2, 3)), r"size=\(1, 2, 3\)"),
        (lambda: data.tokenise("gpt2", 4), "tokenizer must be a function of a text, got str"),
        (lambda: data.tokenise(list, 0), "length=0"),
        (lambda: data.compose(data.flip(), 3), "got int. Join several"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ct.DataError, match=message):
        make()


FLAT = {"image": np.zeros((4, 6))}


@pytest.mark.parametrize(
    ("transform", "fields", "message"),
    [
        (data.flip(), FLAT, r"shape \(B, H, W, C\), got float64 of shape \(4, 6\)"),
        (data.flip(field="pixels"), FLAT, r"needs the field 'pixels', but the batch has \['image'\]"),
        (data.normalise([1, 2], 1), {"image": images(4)}, "1 or 3 values, one per channel, got 2 and 1"),
        (data.normalise(0, 1), source_of(np.int64), "largest value is white for normalise, got int64"),
        (data.colour_jitter(), source_of(np.uint64), "largest value is white for colour_jitter, got uint64"),
        (data.mixup(), {"image": images(4), "y": np.zeros(4)}, "needs the field 'label'"),
        (data.mixup(), source_of(np.uint8), "must be floating for mixup, got uint8. Normalise it before"),
        (data.mixup(classes=3), source_of(), r"in \[0, 3\)"),
        (data.colour_jitter(brightness=1), {"image": images(4) - 1}, "Put colour_jitter before normalise"),
        (data.colour_jitter(), {"image": images(4, channels=1)}, "3 channels"),
        (data.resize(lambda epoch: 0), {"image": images(4)}, "size=0"),
        (lambda fields: {"x": fields["image"][:2]}, FLAT, "keep the number of examples, got {'x': 2} for 4 examples"),
        (lambda fields: {"x": 3.0}, FLAT, "a scalar"),
        (lambda fields: None, FLAT, "must return a dict of arrays, got NoneType"),
        (data.tokenise(list, 4), FLAT, "needs the field 'text'"),
        (data.tokenise(lambda text: ["a"], 4), {"text": np.array(["a"])}, "list of token ids, got <U1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(transform, fields, message):
    with pytest.raises(ct.DataError, match=message):
        apply(transform, fields)


def test_mixing_needs_a_source_that_can_be_asked():
    fields = source_of()
    with pytest.raises(ct.DataError, match="must have a length for mixup, got an iterable"):
        data.compose(data.mixup()).apply(fields, context(np.arange(40)))
