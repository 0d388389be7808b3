"""Batches that come several at a time: the same ones, and the same position after them."""

from itertools import chain

import numpy as np
import pytest

from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.data.mixing import mixup
from crosstrain.data.phases import PhasedLoader
from crosstrain.data.stacks import Stack
from crosstrain.errors import DataError

SOURCE = {"image": np.arange(44.0).reshape(22, 2), "label": np.arange(22)}


def loader(source=SOURCE, *, takes=True, batch_size=4, **options):
    def put(fields):
        return dict(fields)

    placement = Placement(
        part=0, parts=1, data_size=1, float_dtype="float32", put=put, put_stack=put if takes else None
    )
    return Loader(source, LoaderSpec(batch_size=batch_size, shuffle=True, **options), placement)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("takes", [True, False], ids=["stacked", "one by one"])
@pytest.mark.parametrize("source", [SOURCE, [{"x": np.ones(3) * i} for i in range(22)]], ids=["arrays", "examples"])
def test_the_batches_of_an_epoch_several_at_a_time(source, takes):
    groups = list(loader(source, takes=takes).stacks(2))
    assert [len(group) for group in groups] == [2, 2, 2]
    assert [isinstance(group, Stack) for group in groups] == [takes] * 3
    assert_same(list(chain.from_iterable(groups)), list(loader(source)))


def test_fewer_at_the_end_are_no_stack():
    groups = list(loader().stacks(4))
    assert [(len(group), isinstance(group, Stack)) for group in groups] == [(4, True), (2, False)]
    assert_same(list(chain.from_iterable(groups)), list(loader()))


def test_batches_of_unlike_shapes_are_no_stack():
    groups = list(loader(even_batches=False).stacks(3))
    assert [isinstance(group, Stack) for group in groups] == [True, False, False]
    assert [len(batch["label"]) for batch in chain.from_iterable(groups)] == [4, 4, 4, 4, 4, 2]


def test_transforms_of_the_host_run_before():
    def double(batch):
        return batch | {"image": 2 * batch["image"]}

    assert_same(list(chain.from_iterable(loader(transform=double).stacks(3))), list(loader(transform=double)))


@pytest.mark.parametrize("takes", [True, False], ids=["stacked", "one by one"])
def test_partners_are_read_by_workers_also_for_the_last_batches(takes):
    images = {"image": np.arange(88.0).reshape(22, 2, 2, 1), "label": np.arange(22)}
    mixed = loader(images, takes=takes, transform=mixup(0.2), workers=2)
    assert_same(list(chain.from_iterable(mixed.stacks(4))), list(loader(images, transform=mixup(0.2))))


def test_a_limit_ends_the_iteration_where_it_goes_on():
    first = loader()
    taken = list(chain.from_iterable(first.stacks(2, limit=5)))
    assert len(taken) == 5
    second = loader()
    second.load_state_dict(first.state_dict())
    assert_same([*taken, *second], list(loader()))


def test_the_position_is_that_after_the_batches_that_were_taken():
    first = loader()
    taken = next(iter(first.stacks(2)))
    second = loader()
    second.load_state_dict(first.state_dict())
    assert_same([*taken, *chain.from_iterable(second.stacks(2))], list(loader()))
    list(first.stacks(2, limit=100))
    assert first.state_dict()["epoch"] == first.epoch == 2


def test_a_phased_loader_gives_those_of_its_phase():
    phased = PhasedLoader([(1, loader()), (1, loader(batch_size=8))])
    sizes = [[len(batch["label"]) for group in phased.stacks(2) for batch in group] for _ in range(2)]
    assert sizes == [[4] * 6, [8] * 3]


def test_a_phased_loader_stands_where_it_stood_also_after_an_exception():
    phased = PhasedLoader([(1, loader()), (1, loader(batch_size=8))])

    def look_aside():
        with phased.aside():
            for _ in range(2):
                next(iter(phased))
            assert phased.batch_size == 8
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_aside()
    assert (phased.epoch, phased.batch_size) == (0, 4)


def test_a_stack_is_a_sequence():
    stack = Stack({"x": np.arange(6).reshape(3, 2)}, 3)
    assert [each["x"].tolist() for each in stack] == [[0, 1], [2, 3], [4, 5]]
    assert stack[-1]["x"].tolist() == [4, 5]
    assert [each["x"].tolist() for each in stack[1:]] == [[2, 3], [4, 5]]
    with pytest.raises(IndexError, match="index must be from 0 to 2, got 3"):
        stack[3]


def test_a_count_below_one_is_refused():
    with pytest.raises(DataError, match="count must be"):
        loader().stacks(0)
