"""Transforms and workers in a loader: the same bytes however the batches are cut, and errors that name the example."""

import threading

import numpy as np
import pytest

import crosstrain as ct
from crosstrain import data
from crosstrain.data.loader import Loader, LoaderSpec, Placement

COUNT = 30
rng = np.random.default_rng(0)
IMAGES = {"image": rng.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8), "label": np.arange(COUNT) % 4}


def make(source, *, process=0, processes=1, **spec):
    placement = Placement(part=process, parts=processes, data_size=processes, float_dtype="float32", put=lambda b: b)
    return Loader(source, LoaderSpec(**{"batch_size": 8, "seed": 5, **spec}), placement)


def together(source, processes, epoch=0, **spec):
    """The examples that count of one epoch, as all processes see them."""
    loaders = [make(source, process=index, processes=processes, **spec) for index in range(processes)]
    for loader in loaders:
        loader.set_epoch(epoch)
    parts = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*loaders, strict=True)
    ]
    kept = [batch.get("weight", np.ones(len(batch["label"]))) > 0 for batch in parts]
    return {
        name: np.concatenate([batch[name][keep] for batch, keep in zip(parts, kept, strict=True)])
        for name in parts[0]
        if name != "weight"
    }


class Noise(data.Transform):
    """One of a user's own."""

    def apply(self, fields, context):
        return {
            **fields,
            "noise": context.uniform(2),
            "example": context.examples,
            "epoch": 0 * fields["label"] + context.epoch,
        }


class Stream:
    def __iter__(self):
        return ({"image": image, "label": label} for image, label in zip(*IMAGES.values(), strict=True))


class MapStyle:
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {name: values[index] for name, values in IMAGES.items()}


AUGMENT = data.compose(
    data.random_crop(2),
    data.flip(),
    data.colour_jitter(brightness=0.2, contrast=0.2, saturation=0.2),
    data.normalise([0.5, 0.4, 0.3], 0.2),
    data.cutout(3),
    Noise(),
)
MIXED = data.compose(AUGMENT, data.mixup(0.3, classes=4, probability=0.5), data.cutmix(classes=4))


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("transform", [AUGMENT, MIXED], ids=["augment", "mixed"])
@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("processes", [2, 4, 5])
def test_processes_make_the_bytes_that_one_makes(processes, epoch, transform):
    spec = {"epoch": epoch, "shuffle": True, "transform": transform}
    same(together(IMAGES, processes, **spec), together(IMAGES, 1, **spec))


@pytest.mark.parametrize("spec", [{"batch_size": 5}, {"batch_size": 30}, {"batch_size": 1}])
def test_the_size_of_batches_changes_no_byte(spec):
    same(together(IMAGES, 1, transform=MIXED, **spec), together(IMAGES, 1, transform=MIXED))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("source", [IMAGES, MapStyle()], ids=["arrays", "map-style"])
def test_workers_and_kinds_of_source_change_no_byte(source, workers):
    spec = {"shuffle": True, "transform": MIXED}
    same(together(source, 2, workers=workers, **spec), together(IMAGES, 1, **spec))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_is_augmented_by_the_place_of_the_example(processes):
    same(together(Stream(), processes, transform=AUGMENT), together(IMAGES, 1, transform=AUGMENT))


def test_a_transform_of_ones_own_knows_its_examples():
    given = together(IMAGES, 2, epoch=7, shuffle=True, transform=Noise())
    order = ct.random.permutation(5, 7, COUNT)
    np.testing.assert_array_equal(given["example"], order)
    assert (given["epoch"] == 7).all()
    expected = ct.random.example_uniform(5, "Noise", 7, order, 2)
    np.testing.assert_array_equal(given["noise"], expected.astype(np.float32))


def test_every_epoch_augments_anew():
    epochs = [together(IMAGES, 1, epoch=epoch, transform=AUGMENT)["image"] for epoch in range(2)]
    assert not np.array_equal(*epochs)


def test_a_function_that_drops_examples_is_refused():
    def first_half(fields):
        return {name: values[: len(values) // 2] for name, values in fields.items()}

    with pytest.raises(ct.DataError, match="transform first_half must keep the number of examples"):
        list(make(IMAGES, transform=first_half))


def test_what_is_no_transform_is_refused_when_the_loader_is_made():
    with pytest.raises(ct.DataError, match=r"got list. Join several with ct.data.compose"):
        make(IMAGES, transform=[data.flip()])


def test_mixing_a_stream_is_refused():
    with pytest.raises(ct.DataError, match="for mixup, got an iterable"):
        list(make(Stream(), transform=data.compose(data.normalise(0, 1), data.mixup())))


# Workers.


class BrokenError(Exception):
    pass


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("crosstrain-")]


class Meeting(MapStyle):
    """Examples that are given only once three threads ask at a time."""

    def __init__(self):
        self.barrier = threading.Barrier(3)

    def __getitem__(self, index):
        self.barrier.wait(timeout=30)
        return super().__getitem__(index)


def test_workers_read_beside_each_other():
    meeting = Meeting()
    given = [batch["label"].tolist() for batch in make(meeting, batch_size=6, workers=3)]
    assert [label for labels in given for label in labels] == IMAGES["label"].tolist()
    assert not worker_threads()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_raised_in_the_loop_and_names_the_example(workers):
    class Broken(MapStyle):
        def __getitem__(self, index):
            if index == 19:
                raise BrokenError("cannot be read")
            return super().__getitem__(index)

    batches = iter(make(Broken(), workers=workers))
    assert [len(next(batches)["label"]) for _ in range(2)] == [8, 8]
    with pytest.raises(BrokenError, match="cannot be read") as caught:
        next(batches)
    assert caught.value.__notes__ == ["This was example 19 of the source."]
    assert not worker_threads()


def test_an_error_of_a_source_of_ones_own_names_the_examples():
    class Broken(data.Source):
        def __len__(self):
            return COUNT

        def gather(self, rows):
            if 19 in rows:
                raise BrokenError("cannot be read")
            return {"x": rows}

    with pytest.raises(BrokenError) as caught:
        list(make(Broken(), workers=1, batch_size=12))
    assert caught.value.__notes__ == ["This was among the examples [18, 19, 20] of the source."]


def test_leaving_an_epoch_ends_the_workers():
    for batch in make(MapStyle(), workers=2):
        assert len(batch["label"]) == 8
        assert worker_threads()
        break
    assert not worker_threads()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda index: {"x": np.zeros(index % 2 + 1)}, r"same shapes, got 'x' of \(1,\) and \(2,\)"),
        (lambda index: {"x" if index % 2 else "y": 1}, "must have the fields"),
    ],
)
def test_examples_that_do_not_fit_together_are_refused_by_workers_too(parts, message):
    class Odd(MapStyle):
        def __getitem__(self, index):
            return parts(index)

    with pytest.raises(ct.DataError, match=message):
        list(make(Odd(), workers=2))


@pytest.mark.parametrize(
    ("source", "workers", "message"),
    [
        (IMAGES, -1, "workers=-1"),
        (IMAGES, 1.5, "workers=1.5"),
        (IMAGES, True, "workers=True"),
        (Stream(), 2, "must be 0 for an iterable, got workers=2"),
    ],
)
def test_workers_that_cannot_be_are_refused(source, workers, message):
    with pytest.raises(ct.DataError, match=message):
        make(source, workers=workers)


def test_a_dataloader_keeps_its_own_workers():
    from torch.utils.data import DataLoader

    with pytest.raises(ct.DataError, match="Give it num_workers itself"):
        make(DataLoader(MapStyle(), batch_size=4), batch_size=None, workers=2)


# Streams over processes.


@pytest.mark.parametrize("examples", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_is_even_over_processes_also_with_fewer_examples(examples, batch_size):
    class Few:
        def __iter__(self):
            return ({"label": index} for index in range(examples))

    shards = [list(make(Few(), process=index, processes=4, batch_size=batch_size)) for index in range(4)]
    assert len({len(shard) for shard in shards}) == 1, "every process takes as many steps"
    assert {len(batch["label"]) for shard in shards for batch in shard} == {1}
    counted = [int(batch["label"][0]) for shard in shards for batch in shard if batch["weight"][0]]
    assert sorted(counted) == list(range(examples))
