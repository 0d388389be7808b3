"""Keeps a few batches ahead of the step: in a thread where making a batch is slow, else by dispatching early."""

import atexit
import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def look_ahead(items: Iterable[T], depth: int, burst: int = 1) -> Generator[T, None, None]:
    """Yields `items`, having asked for at least `depth` of them ahead. Device copies run while the step computes.

    An exception comes after the items that were made before it.

    Args:
        items: to yield.
        depth: how many are asked for ahead.
        burst: how many are asked for at once. Small batches that are made between two steps, whose code and data fill
            the processor's caches, take four times as long as those that are made after one another.
    """
    waiting: deque[T] = deque()
    rest, error, ended = iter(items), None, False
    while True:
        if len(waiting) <= depth and not ended:
            try:
                waiting.extend(islice(rest, burst + depth - len(waiting)))
                ended = len(waiting) <= depth
            except BaseException as found:
                error, ended = found, True
        if not waiting:
            break
        yield waiting.popleft()
    if error is not None:
        raise error


def in_thread(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields `items`, made by a thread that stays up to `depth` ahead.

    An exception in the thread is raised here, in its place. The thread ends with the iteration, also when the
    consumer stops early.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(_END)
        except BaseException as error:
            offer(error)

    thread = threading.Thread(target=produce, name="crosstrain-prefetch", daemon=True)

    def end() -> None:
        stop.set()
        thread.join()

    # An iteration that is left open ends here: a thread in a framework's code aborts an interpreter that goes away.
    atexit.register(end)
    thread.start()
    gone = sys.is_finalizing  # a module is no longer there then
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if not gone():
            end()
            atexit.unregister(end)
            if isinstance(items, Generator):
                items.close()  # what it holds (a pool of workers) ends with it, not when it is collected
