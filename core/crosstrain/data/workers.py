"""Threads that gather the parts of a batch beside each other, for sources that are slow per example."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from crosstrain.data.sources import Arrays, Source, kept
from crosstrain.errors import DataError

# More parts than threads, so that one slow example does not keep the others waiting.
_PARTS_PER_WORKER = 4
_SHOWN = 8


@contextmanager
def gathering(source: Source, workers: int) -> Iterator[Callable[[np.ndarray], Arrays]]:
    """`source.gather`, spread over `workers` threads; 0 for the calling thread alone. Order is kept.

    Decoders and NumPy release the interpreter's lock, so threads help without copies between processes.
    """
    if not workers:
        # Several batches are there at a time: a source of one's own may give its next one in the same memory.
        yield source.gather if source.fields() is not None else lambda rows: kept(source.gather(rows))
        return

    def part(rows: np.ndarray) -> Arrays:
        try:
            return source.gather(rows)
        except Exception as error:
            if not getattr(error, "__notes__", None):
                shown = rows[:_SHOWN].tolist()
                error.add_note(
                    f"This was among the examples {shown}{' ...' if len(rows) > _SHOWN else ''} of the source."
                )
            raise

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers, thread_name_prefix="crosstrain-worker") as pool:

        def gather(rows: np.ndarray) -> Arrays:
            parts = np.array_split(rows, max(1, min(len(rows), workers * _PARTS_PER_WORKER)))
            return _join(list(pool.map(part, parts)))

        yield gather


def _join(parts: list[Arrays]) -> Arrays:
    first = parts[0]
    for other in parts[1:]:
        if other.keys() != first.keys():
            raise DataError(f"all examples must have the fields {sorted(first)}, got one with {sorted(other)}.")
        for name, values in other.items():
            if values.shape[1:] != first[name].shape[1:]:
                raise DataError(
                    f"all examples must have the same shapes, got {name!r} of {first[name].shape[1:]} and "
                    f"{values.shape[1:]}. Pad, crop or resize them."
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in first}
