"""Prefetching: order, how far ahead, exceptions, and threads that end with the iteration."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.data.prefetch import in_thread, look_ahead

NAME = "crosstrain-prefetch"


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def counted(items, made):
    for item in items:
        made.append(item)
        yield item


@pytest.mark.parametrize("prefetch", [look_ahead, in_thread])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_items_come_in_order(prefetch, count):
    assert list(prefetch(range(count), 2)) == list(range(count))
    assert not prefetch_threads()


def test_look_ahead_asks_for_two_more_than_it_gives():
    made = []
    items = look_ahead(counted(range(10), made), 2)
    assert next(items) == 0
    assert made == [0, 1, 2]
    assert next(items) == 1
    assert made == [0, 1, 2, 3]


def test_a_thread_makes_the_next_items_while_the_consumer_holds_one():
    third = threading.Event()

    def items():
        yield 1
        yield 2
        third.set()
        yield 3

    given = in_thread(items(), 2)
    assert next(given) == 1
    assert third.wait(timeout=30), "the thread goes on without being asked"
    assert list(given) == [2, 3]


def test_a_thread_stays_within_its_depth():
    made = []
    given = in_thread(counted(range(100), made), 2)
    next(given)
    given.close()
    assert len(made) <= 4, "one given, two waiting, one in hand"


class BrokenError(Exception):
    pass


def breaks_after(count):
    yield from range(count)
    raise BrokenError("row 3 cannot be read")


@pytest.mark.parametrize("prefetch", [look_ahead, in_thread])
def test_an_exception_is_raised_in_the_consumer(prefetch):
    with pytest.raises(BrokenError, match="row 3 cannot be read"):
        list(prefetch(breaks_after(3), 2))
    assert not prefetch_threads()


def test_what_came_before_an_exception_in_a_thread_is_given_first():
    given = in_thread(breaks_after(3), 2)
    assert [next(given) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BrokenError):
        next(given)


def test_the_thread_ends_when_the_consumer_stops_early():
    for item in in_thread(iter(range(10**9)), 2):
        assert prefetch_threads()
        if item == 3:
            break
    assert not prefetch_threads()


def test_a_loader_over_slow_examples_prefetches_in_a_thread_and_passes_its_exceptions_on():
    class Examples:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            if index == 20:
                raise BrokenError("example 20")
            return {"x": np.float32(index), "thread": threading.current_thread().name == NAME}

    loader = Loader(
        Examples(),
        LoaderSpec(batch_size=4),
        Placement(part=0, parts=1, data_size=1, float_dtype="float32", put=lambda batch: batch),
    )
    seen = []

    def consume() -> None:
        for batch in loader:
            assert batch["thread"].all()
            seen.extend(batch["x"].tolist())

    with pytest.raises(BrokenError, match="example 20"):
        consume()
    assert seen == list(range(20))
    assert not prefetch_threads()


def test_look_ahead_may_ask_for_several_at_once():
    made = []
    items = look_ahead(counted(range(12), made), 2, burst=4)
    steps = []
    for _ in items:
        steps.append(len(made))
    assert steps == [6, 6, 6, 6, 10, 10, 10, 10, 12, 12, 12, 12]


@pytest.mark.parametrize("burst", [1, 5])
def test_look_ahead_gives_what_was_made_before_an_exception(burst):
    def items():
        yield from range(3)
        raise ValueError("no more")

    given = []
    with pytest.raises(ValueError, match="no more"):
        given.extend(look_ahead(items(), 2, burst))
    assert given == [0, 1, 2]


def test_an_iteration_that_is_left_open_at_the_end_of_a_script_says_nothing():
    script = (
        "import itertools\n"
        "from crosstrain.data.prefetch import in_thread\n"
        "numbers = in_thread(itertools.count(), 2)\n"
        "print(next(numbers))\n"
        "import threading\n"
        "threading.numbers = numbers\n"  # so that it goes when modules have gone
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
