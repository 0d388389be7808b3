"""A loader's position: what follows after a resume is what would have followed, whatever the source."""

import json
import threading

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

import crosstrain as ct
from crosstrain import data
from crosstrain.data.loader import Loader, LoaderSpec, Placement

COUNT = 23
AUGMENT = data.compose(data.random_crop(1), data.flip(), data.normalise(0.5, 0.2), data.mixup(1.0))


def make(source, *, process=0, processes=1, **spec):
    placement = Placement(
        part=process,
        parts=processes,
        data_size=processes,
        float_dtype="float32",
        put=lambda batch: {name: np.array(values) for name, values in batch.items()},
    )
    return Loader(source, LoaderSpec(**{"batch_size": 4, "seed": 5, **spec}), placement)


def table():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)
    return {"image": pixels, "label": np.arange(COUNT)}


class Examples:
    """A map-style data set that knows what it was asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.asked.append(index)
        return {"label": index}


class Stream:
    """An iterable without a state of its own."""

    def __init__(self, count=COUNT):
        self.count, self.given, self.epoch = count, 0, 0

    def __iter__(self):
        for index in range(self.count):
            self.given += 1
            yield {"label": index + 100 * self.epoch}


class EpochStream(Stream):
    def set_epoch(self, epoch):
        self.epoch = epoch


class StatefulStream(EpochStream):
    """One that can go on where it was, as HF's and torchdata's can."""

    at = 0

    def __iter__(self):
        for index in range(self.at, self.count):
            self.given += 1
            self.at = index + 1
            yield {"label": index + 100 * self.epoch}
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def hf_stream():
    return datasets.Dataset.from_dict({"label": list(range(COUNT))}).to_iterable_dataset(num_shards=3)


SOURCES = {
    "arrays": (table, {"shuffle": True}),
    "augmented": (table, {"shuffle": True, "transform": AUGMENT}),
    "map-style": (Examples, {"shuffle": True}),
    "workers": (Examples, {"shuffle": True, "workers": 2}),
    "drop-last": (table, {"shuffle": True, "drop_last": True}),
    "dataloader": (lambda: DataLoader(Examples(), batch_size=4, shuffle=True), {"batch_size": None}),
    "hf": (lambda: datasets.Dataset.from_dict({"label": list(range(COUNT))}), {"shuffle": True}),
    "stream": (Stream, {}),
    "epoch-stream": (EpochStream, {}),
    "stateful-stream": (StatefulStream, {}),
    "hf-stream": (hf_stream, {}),
}


def run(loader, epochs):
    """All batches up to the end of `epochs`, with the position after each."""
    given = []
    for _ in range(loader.epoch, epochs):
        for batch in loader:
            given.append((batch, json.loads(json.dumps(loader.state_dict()))))
    return given


def same(found, expected):
    assert len(found) == len(expected)
    for (batch, state), (other, other_state) in zip(found, expected, strict=True):
        assert (state["epoch"], state["batch"]) == (other_state["epoch"], other_state["batch"])
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.mark.parametrize("name", SOURCES)
def test_after_a_resume_follows_what_would_have_followed(name):
    source, spec = SOURCES[name]
    whole = run(make(source(), **spec), 3)
    for taken in range(len(whole)):
        resumed = make(source(), **spec)
        resumed.load_state_dict(whole[taken][1])
        same(run(resumed, 3), whole[taken + 1 :])


@pytest.mark.parametrize("name", SOURCES)
def test_one_loader_can_be_set_back_and_forth(name):
    source, spec = SOURCES[name]
    loader = make(source(), **spec)
    whole = run(loader, 2)
    for taken in (3, 0, len(whole) - 2):
        loader.load_state_dict(whole[taken][1])
        same(run(loader, 2), whole[taken + 1 :])
    loader.set_epoch(0)
    same(run(loader, 2), whole)


@pytest.mark.parametrize("name", ["stream", "stateful-stream", "hf-stream"])
def test_an_epoch_after_one_that_was_left_is_whole(name):
    source, spec = SOURCES[name]
    loader, other = make(source(), **spec), make(source(), **spec)
    with loader.aside():
        next(iter(loader))
    for _ in range(2):
        found, expected = ([batch["label"].tolist() for batch in each] for each in (loader, other))
        assert found == expected
        next(iter(loader))
        other.set_epoch(loader.epoch)


@pytest.mark.parametrize("name", ["arrays", "augmented", "stream", "stateful-stream"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_another_number_of_processes_goes_on(name, before, after):
    source, spec = SOURCES[name]

    def together(processes, state=None):
        loaders = [make(source(), process=index, processes=processes, **spec) for index in range(processes)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        parts = zip(*(run(loader, 2) for loader in loaders), strict=True)
        return [
            ({field: np.concatenate([batch[field] for batch, _ in part]) for field in part[0][0]}, part[0][1])
            for part in parts
        ]

    whole = together(before)
    same(together(after, whole[4][1]), whole[5:])


# What the position counts.


def test_batches_that_were_only_prefetched_do_not_count():
    prefetched = threading.Event()

    class Watched(Examples):
        def __getitem__(self, index):
            if index >= 12:
                prefetched.set()
            return super().__getitem__(index)

    loader = make(Watched())
    batches = iter(loader)
    next(batches)
    next(batches)
    assert prefetched.wait(timeout=30)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 2)
    batches.close()
    assert loader.state_dict()["batch"] == 2


def test_the_position_before_within_and_after_epochs():
    loader = make(table())
    place = lambda: (loader.state_dict()["epoch"], loader.state_dict()["batch"])  # noqa: E731
    assert place() == (0, 0)
    places = [place() for _ in loader]
    assert places == [(0, index) for index in range(1, 7)]
    assert place() == (1, 0)
    loader.set_epoch(4)
    assert place() == (4, 0)
    iter(loader)
    assert place() == (4, 0)


def test_an_iteration_that_was_left_no_longer_moves_the_position():
    loader = make(table())
    old, new = iter(loader), iter(loader)
    next(new)
    next(old)
    next(old)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 1)


def test_nothing_is_gathered_again():
    state = run(make(Examples(), shuffle=True), 1)[3][1]
    examples = Examples()
    loader = make(examples, shuffle=True)
    loader.load_state_dict(state)
    list(loader)
    assert examples.asked[:7] == ct.random.permutation(5, 0, COUNT)[16:].tolist()


def test_a_stateful_stream_is_not_read_over_again():
    state = run(make(StatefulStream(1000)), 1)[199][1]
    stream = StatefulStream(1000)
    loader = make(stream)
    loader.load_state_dict(state)
    assert len(run(loader, 1)) == 50
    assert stream.given == 4 + 200, "a batch from the beginning for padding, and the rest"


@pytest.mark.parametrize(
    ("name", "exact", "note"),
    [
        ("arrays", True, None),
        ("map-style", True, None),
        ("hf", True, None),
        ("dataloader", False, "random numbers that the data set"),
        ("stream", False, "has no state_dict: the examples before the position are read over"),
        ("hf-stream", False, "loses what the buffer held"),
    ],
)
def test_what_is_not_exact_is_said(name, exact, note):
    source, spec = SOURCES[name]
    loader = make(source(), **spec)
    assert loader.exact_resume is exact
    assert (loader.resume_note is None) if note is None else (note in loader.resume_note)


# Refusals.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 5}, "batch_size must be as it was .* got batch_size=5 after batch_size=4"),
        ({"seed": 6}, "got seed=6 after seed=5"),
        ({"shuffle": True}, "got shuffle=True after shuffle=False"),
        ({"drop_last": True}, "got drop_last=True"),
        ({"source": {"label": np.arange(22)}}, "got examples=22 after examples=23"),
        ({"source": Stream()}, "got examples=None after examples=23"),
    ],
)
def test_a_position_of_another_loader_is_refused(changed, message):
    state = make(table()).state_dict()
    with pytest.raises(ct.DataError, match=message):
        make(**{"source": table(), **changed}).load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 2}, "version=2"),
        ({"batch": 7}, r"in \[0, 6\], got batch=7"),
        ({"batch": -1}, "batch=-1"),
        ({"batch": 1.0}, "batch=1.0"),
        ({"epoch": True}, "epoch=True"),
        ({"epoch": "3"}, "epoch='3'"),
        ({"seed": None}, "seed=None"),
    ],
)
def test_a_state_that_cannot_be_one_is_refused_and_changes_nothing(changed, message):
    loader = make(table())
    next(iter(loader))
    before = loader.state_dict()
    with pytest.raises(ct.DataError, match=message):
        loader.load_state_dict({**before, **changed})
    assert loader.state_dict() == before


@pytest.mark.parametrize(("state", "message"), [([], "got list"), ({"epoch": 1}, r"must have \['batch'")])
def test_what_is_no_state_is_refused(state, message):
    with pytest.raises(ct.DataError, match=message):
        make(table()).load_state_dict(state)


def test_a_stream_whose_state_is_no_plain_data_is_refused():
    class Odd(StatefulStream):
        def state_dict(self):
            return {"at": {self.at}}

    loader = make(Odd())
    next(iter(loader))
    with pytest.raises(ct.DataError, match="must be plain data"):
        loader.state_dict()
