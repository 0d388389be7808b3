"""Transforms on the device give the bytes that they give on the host, on either engine, also after a resume."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain import data

COUNT = 22
rng = np.random.default_rng(0)
SOURCE = {"image": rng.integers(0, 256, (COUNT, 9, 7, 3), dtype=np.uint8), "label": np.arange(COUNT) % 4}
JITTER = data.colour_jitter(brightness=0.4, contrast=0.3, saturation=0.2)
FLOATS = data.normalise([0.5, 0.4, 0.3], 0.2)
CHAINS = {
    "normalise": FLOATS,
    "reflect": data.random_crop(2),
    "zeros": data.random_crop(8, mode="zeros"),
    "flip": data.flip(),
    "alternating flip": data.compose(data.alternating_flip(), data.translate(1, -2)),
    "cutout of bytes": data.cutout(5, fill=7.6),
    "cutout": data.compose(FLOATS, data.cutout(5, fill=0.3)),
    "mixup": data.compose(data.random_crop(2), FLOATS, data.mixup(0.4, classes=4)),
    "cutmix": data.compose(data.flip(), FLOATS, data.cutmix()),
    "jitter": JITTER,
    "jittered floats": data.compose(JITTER, FLOATS),
    "resize": data.compose(FLOATS, data.resize((6, 13))),
    "moves": data.compose(data.random_crop(2), data.flip(), data.cutout(3)),
    "all": data.compose(
        data.resize(lambda epoch: 8 + 4 * epoch),
        JITTER,
        data.random_crop(2),
        data.flip(),
        data.flip(0.2),
        FLOATS,
        data.cutout(4),
        data.mixup(),
        data.cutmix(),
    ),
}


def epochs(loader: Any, count: int = 2) -> list[dict[str, np.ndarray]]:
    return [{name: np.asarray(values) for name, values in batch.items()} for _ in range(count) for batch in loader]


def loader_of(accelerator: ct.Accelerator, transform: Any, where: str, **options: Any) -> Any:
    given = {"batch_size": 8, "shuffle": True, "transform": transform, "transform_on": where, **options}
    return accelerator.loader(given.pop("source", SOURCE), **given)


def same(found: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert (values.dtype, values.shape) == (other[name].dtype, other[name].shape)
            np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("name", CHAINS)
def test_the_device_gives_the_bytes_of_the_host(make: Any, name: str) -> None:
    accelerator = make(precision="fp32")
    on_host, on_device = (epochs(loader_of(accelerator, CHAINS[name], where)) for where in ("host", "device"))
    same(on_device, on_host)
    source = accelerator.resident(SOURCE)
    same(epochs(loader_of(accelerator, CHAINS[name], "device", source=source)), on_host)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_white_of_32_bits_is_that_of_the_host(make: Any, dtype: Any) -> None:
    accelerator, source = make(), {"image": np.full((8, 4, 4, 3), np.iinfo(dtype).max, dtype)}
    transform = data.compose(data.resize(6), data.colour_jitter(brightness=0.5))
    same(*(epochs(loader_of(accelerator, transform, each, source=source)) for each in ("device", "host")))


@pytest.mark.parametrize(
    ("name", "dtype"), [("mixup", np.uint8), ("mixup", np.float64), ("all", np.uint16), ("moves", np.uint32)]
)
def test_other_types_of_images_too(make: Any, name: str, dtype: Any) -> None:
    white = 1 if dtype is np.float64 else np.iinfo(dtype).max
    source = {**SOURCE, "image": (SOURCE["image"] * (white / 255)).astype(dtype)}
    accelerator = make(precision="fp64")
    where = ("host", "device")
    on_host, on_device = (epochs(loader_of(accelerator, CHAINS[name], each, source=source)) for each in where)
    same(on_device, on_host)
    resident = accelerator.resident(source)
    same(epochs(loader_of(accelerator, CHAINS[name], "device", source=resident)), on_host)


def test_the_batch_is_an_array_of_the_engine_split_as_any_other(make: Any) -> None:
    accelerator = make(precision="fp32")
    plain, augmented = (
        next(iter(accelerator.loader(SOURCE, batch_size=8, **options)))
        for options in ({}, {"transform": CHAINS["mixup"], "transform_on": "device"})
    )
    assert type(augmented["image"]) is type(plain["image"])
    assert accelerator.to_device(augmented) is augmented
    for part in ("sharding", "device"):
        assert getattr(augmented["image"], part, None) == getattr(plain["image"], part, None)


def test_jax_compiles_once_per_shape_of_batch() -> None:
    accelerator = ct.Accelerator("jax")
    compiled = accelerator._augment._run._cache_size
    for seed in range(2):
        epochs(loader_of(accelerator, CHAINS["mixup"], "device", seed=seed), 3)
    assert compiled() == 1, "padded batches have one shape; seeds and epochs are no constants"
    epochs(loader_of(accelerator, data.resize(lambda epoch: 4 + epoch // 2), "device"), 6)
    assert compiled() == 4, "and one per size of progressive resizing"


def test_resuming_in_the_middle_of_an_epoch(make: Any) -> None:
    accelerator = make(precision="fp32")
    first = loader_of(accelerator, CHAINS["all"], "device")
    whole = epochs(first)
    again = loader_of(accelerator, CHAINS["all"], "device")
    batches = iter(again)
    next(batches)
    state = again.state_dict()
    batches.close()
    resumed = loader_of(accelerator, CHAINS["all"], "device")
    resumed.load_state_dict(state)
    same(epochs(resumed), whole[1:])
    on_host = loader_of(accelerator, CHAINS["all"], "host")
    on_host.load_state_dict(state)
    same(epochs(on_host), whole[1:])
    assert resumed.exact_resume


class Noise(ct.data.Transform):
    def apply(self, fields: Any, context: Any) -> Any:
        return fields


@pytest.mark.parametrize(
    ("transform", "where", "message"),
    [
        (data.tokenise(list, 4), "device", "transforms of images, got tokenise, which is Python for the host"),
        (lambda fields: fields, "device", "got <lambda>, which is Python for the host"),
        (data.compose(data.flip(), Noise()), "device", "got Noise, which is Python"),
        (None, "device", "transform must be given with transform_on='device', got transform=None"),
        (data.flip(), "gpu", "transform_on must be 'host' or 'device', got transform_on='gpu'"),
    ],
)
def test_what_cannot_run_there_is_refused_when_the_loader_is_made(
    make: Any, transform: Any, where: str, message: str
) -> None:
    with pytest.raises(ct.DataError, match=message):
        make().loader(SOURCE, batch_size=8, transform=transform, transform_on=where)


@pytest.mark.parametrize(
    ("transform", "source", "message"),
    [
        (data.compose(FLOATS, JITTER), SOURCE, "must be integers for colour_jitter on the device, got float32"),
        (
            data.normalise(0.5, 0.25),
            {"image": SOURCE["image"].astype(np.int64)},
            "largest value is white for normalise, got int64",
        ),
        (data.mixup(), SOURCE, "must be floating for mixup, got uint8. Normalise it before"),
        (data.random_crop(7), SOURCE, "padding must be less than the side"),
        (data.flip(field="pixels"), SOURCE, "needs the field 'pixels'"),
        (data.compose(FLOATS, data.mixup()), [{"image": SOURCE["image"][0], "label": 1}].__iter__(), "an iterable"),
    ],
)
def test_images_that_a_transform_cannot_take_are_refused(make: Any, transform: Any, source: Any, message: str) -> None:
    with pytest.raises(ct.DataError, match=message):
        next(iter(make().loader(source, batch_size=8, transform=transform, transform_on="device")))


def test_what_is_copied_are_the_bytes_of_the_source() -> None:
    from crosstrain.data.loader import Loader, LoaderSpec, Placement
    from crosstrain.data.pixels import HostPixels

    copied: list[dict[str, Any]] = []

    def put(batch: dict[str, Any]) -> dict[str, Any]:
        copied.append(batch)
        return batch

    placement = Placement(
        part=0,
        parts=1,
        data_size=1,
        float_dtype="float32",
        put=put,
        augment=lambda chain, fields, drawn, held: chain.run(HostPixels(), fields, drawn, held),
    )
    spec = LoaderSpec(batch_size=8, transform=CHAINS["mixup"], transform_on="device")
    batch = next(iter(Loader(SOURCE, spec, placement)))
    assert batch["image"].dtype == np.float32
    fields, drawn = copied[:2]
    np.testing.assert_array_equal(fields["image"], SOURCE["image"][:8])
    assert fields["image"].dtype == drawn["2/partner"].dtype == np.uint8
    numbers = sum(values.nbytes for name, values in drawn.items() if name != "2/partner")
    assert numbers <= 8 * (2 * 8 + 4), "two offsets each for the examples and their partners, and a share"
