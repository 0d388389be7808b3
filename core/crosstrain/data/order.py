"""Which examples form which batch: a function of (seed, epoch) and sizes, the same on every process."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crosstrain.random import permutation


class BatchRows(NamedTuple):
    """The rows of one global batch.

    Attributes:
        rows: example indices, int64, shape (padded B,); padding repeats examples of the same epoch.
        real: how many of them count; they come first.
    """

    rows: np.ndarray
    real: int

    def local(self, part: int | tuple[int, ...], parts: int) -> tuple[np.ndarray, np.ndarray]:
        """A contiguous part of `parts`, or several: indices, and weights (1 real, 0 padding), of one shape (n,)."""
        size = len(self.rows) // parts
        held = (part,) if isinstance(part, int) else part
        weights = padding_weights(len(self.rows), self.real)
        if len(held) == 1:
            chosen = slice(held[0] * size, (held[0] + 1) * size)
            return self.rows[chosen], weights[chosen]
        places = np.concatenate([np.arange(size) + each * size for each in held])
        return self.rows[places], weights[places]


@lru_cache(maxsize=8)
def padding_weights(size: int, real: int) -> np.ndarray:
    """1 for the first `real` of `size` examples, 0 for the padding; float64, shape (size,), to be read only."""
    weights = np.ones(size)
    weights[real:] = 0.0
    weights.setflags(write=False)
    return weights


def pad_rows(rows: np.ndarray, size: int, pool: np.ndarray) -> BatchRows:
    """Fills `rows` up to `size` with examples from the beginning of `pool`, again and again if it is short."""
    missing = size - len(rows)
    if not missing:
        return BatchRows(rows, size)
    return BatchRows(np.concatenate([rows, np.resize(pool, missing)]), len(rows))


def batch_count(examples: int, batch_size: int, drop_last: bool) -> int:
    """How many batches an epoch has."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


def epoch_batches(
    examples: int,
    batch_size: int,
    padded_size: int | None,
    *,
    order: tuple[int, int] | None,
    drop_last: bool,
    first: int = 0,
) -> Iterator[BatchRows]:
    """The global batches of one epoch, from batch `first` on.

    Args:
        examples: size of the source.
        batch_size: real examples per full batch.
        padded_size: rows per batch after padding; None leaves the last batch short.
        order: (seed, epoch) of the shuffle, or None for the order of the source.
        drop_last: leave out a last batch that is not full.
        first: batches that are left out at the beginning.
    """
    rows = np.arange(examples) if order is None else permutation(*order, examples)
    for index in range(first, batch_count(examples, batch_size, drop_last)):
        part = rows[index * batch_size : (index + 1) * batch_size]
        yield pad_rows(part, padded_size or len(part), rows)
