"""torchdata's `StatefulDataLoader` as a source: what follows after a resume, with workers too."""

import json

import numpy as np
import pytest
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

import crosstrain as ct
from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.random import permutation

COUNT = 22

# torchdata 0.11 calls what torch 2.13 calls deprecated. Workers are forked; where another test has loaded JAX into this
# process, JAX warns that its threads do not come along.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:.*fork.*"),
]


def make(source, *, process=0, processes=1, **spec):
    placement = Placement(part=process, parts=processes, data_size=processes, float_dtype="float32", put=lambda b: b)
    return Loader(source, LoaderSpec(**{"batch_size": None, "seed": 5, **spec}), placement)


class Counting(Dataset):
    """A data set that draws random numbers of its own, and can say how far its generator is."""

    def __init__(self):
        self.drawn, self.asked = 0, []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.drawn += 1
        self.asked.append(index)
        return {"label": index, "noise": np.random.default_rng(self.drawn).normal()}

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


class Stream(IterableDataset):
    """A third of the examples to worker 1, so that worker 0 has short batches at another place; without a state."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def rows(self):
        worker = get_worker_info()
        rows = np.arange(COUNT)
        return rows if worker is None or worker.num_workers == 1 else rows[(rows % 3 == 0) == (worker.id == 1)]

    def __iter__(self):
        for row in self.rows():
            yield {"label": row + 100 * self.epoch}


class StatefulStream(Stream):
    """One that goes on without reading over what came before."""

    def __init__(self):
        self.at, self.given = 0, 0

    def __iter__(self):
        rows = self.rows()
        while self.at < len(rows):
            self.at += 1
            self.given += 1
            yield {"label": rows[self.at - 1] + 100 * self.epoch}
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def run(loader, epochs):
    """All batches up to the end of `epochs`, with the position after each as JSON holds it."""
    found = []
    for _ in range(loader.epoch, epochs):
        for batch in loader:
            found.append((batch, json.loads(json.dumps(loader.state_dict()))))
    return found


def same(found, expected):
    assert len(found) == len(expected)
    for (batch, _), (other, _) in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Counting, Stream, StatefulStream])
def test_after_a_resume_follows_what_would_have_followed(kind, workers):
    def source():
        return StatefulDataLoader(kind(), batch_size=4, shuffle=kind is Counting or None, num_workers=workers)

    whole = run(make(source()), 2)
    # In the middle of an epoch, at its end, and in the middle of the next; the state of a data set outlives an epoch.
    epoch = len(whole) // 2
    for taken in range(1, len(whole)) if kind is not Counting else (1, 3, epoch):
        again = make(source())
        again.load_state_dict(whole[taken - 1][1])
        until = 1 if kind is Counting else 2
        same(run(again, until), whole[taken : epoch * until])


def test_the_order_is_crosstrains_and_no_batch_before_is_read():
    first = make(StatefulDataLoader(Counting(), batch_size=4, shuffle=True))
    batches = iter(first)
    given = np.concatenate([next(batches)["label"] for _ in range(3)]).tolist()
    batches.close()
    assert given == permutation(5, 0, COUNT)[:12].tolist()
    dataset = Counting()
    again = make(StatefulDataLoader(dataset, batch_size=4, shuffle=True))
    again.load_state_dict(first.state_dict())
    assert len(list(again)) == 3
    assert dataset.asked[:10] == permutation(5, 0, COUNT)[12:].tolist()


def test_a_stream_with_a_state_is_not_read_over():
    first = make(StatefulDataLoader(StatefulStream(), batch_size=4))
    batches = iter(first)
    for _ in range(3):
        next(batches)
    batches.close()
    dataset = StatefulStream()
    again = make(StatefulDataLoader(dataset, batch_size=4))
    again.load_state_dict(first.state_dict())
    assert sum(int(batch["weight"].sum()) for batch in again) == COUNT - 12
    assert dataset.given == COUNT - 12 + 4, "the rest, and the first batch, whose examples pad the last one"


@pytest.mark.parametrize("workers", [0, 2])
def test_every_example_of_a_stream_counts_once_over_two_processes(workers):
    shards = [
        list(make(StatefulDataLoader(Stream(), batch_size=4, num_workers=workers), process=index, processes=2))
        for index in range(2)
    ]
    assert len({len(shard) for shard in shards}) == 1, "every process takes as many steps"
    counted = [int(x) for shard in shards for b in shard for x, w in zip(b["label"], b["weight"], strict=True) if w]
    assert sorted(counted) == list(range(COUNT))


def test_an_epoch_that_was_left_begins_anew():
    loader = make(StatefulDataLoader(StatefulStream(), batch_size=4))
    for _ in loader:
        break
    assert next(iter(loader))["label"].tolist() == [100, 101, 102, 103]


def test_notes_say_what_is_not_exact():
    assert "goes on from its own state_dict" in make(StatefulDataLoader(Counting(), batch_size=4)).resume_note
    assert "DataLoader's own state_dict" in make(StatefulDataLoader(Stream(), batch_size=4)).resume_note
    plain = StatefulDataLoader([{"x": 1}] * 4, batch_size=4)
    assert "drawn anew. Augment" in make(plain).resume_note


@pytest.mark.parametrize(("own", "given"), [(4, 8), (None, 4), (None, None)])
def test_another_batch_size_is_refused(own, given):
    with pytest.raises(ct.DataError, match=f"that of the DataLoader, got batch_size={given} for {own}"):
        make(StatefulDataLoader(Stream(), batch_size=own), batch_size=given)
