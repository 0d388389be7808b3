"""Which examples form which batch: a function of (seed, epoch) and sizes, the same on every process."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
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
        weights = padding_weights(len(self.rows), self.real)
        return local_part(self.rows, part, parts), local_part(weights, part, parts)


class BatchGroup(NamedTuple):
    """The rows of several global batches of one size.

    Attributes:
        rows: as those of one, shape (count, padded B).
        real: how many of each count.
    """

    rows: np.ndarray
    real: tuple[int, ...]

    def weights(self) -> np.ndarray:
        """1 for real examples, 0 for the padding; float64, shape (count, padded B)."""
        return np.stack([padding_weights(self.rows.shape[1], real) for real in self.real])


def local_part(values: np.ndarray, part: int | tuple[int, ...], parts: int) -> np.ndarray:
    """A contiguous part of `parts` of the last dimension, or several one after the other; shape (..., n)."""
    size = values.shape[-1] // parts
    held = (part,) if isinstance(part, int) else part
    if len(held) == 1:
        return values[..., held[0] * size : (held[0] + 1) * size]
    return values[..., np.concatenate([np.arange(size) + each * size for each in held])]


@lru_cache(maxsize=8)
def padding_weights(size: int, real: int) -> np.ndarray:
    """1 for the first `real` of `size` examples, 0 for the padding; float64, shape (size,), to be read only."""
    weights = np.ones(size)
    weights[real:] = 0.0
    weights.setflags(write=False)
    return weights


def pad_rows(rows: np.ndarray, size: int, pool: np.ndarray) -> BatchRows:
    """Fills `rows` up to `size` with examples from the beginning of `pool`, again and again if it is short."""
    return BatchRows(_filled(rows, size, pool), len(rows))


def _filled(rows: np.ndarray, size: int, pool: np.ndarray) -> np.ndarray:
    missing = size - rows.shape[-1]
    if not missing:
        return rows
    padding = np.broadcast_to(np.resize(pool, missing), (*rows.shape[:-1], missing))
    return np.concatenate([rows, padding], axis=-1)


def batch_count(examples: int, batch_size: int, drop_last: bool) -> int:
    """How many batches an epoch has."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """The global batches of one epoch.

    Attributes:
        examples: size of the source.
        batch_size: real examples per full batch.
        padded_size: rows per batch after padding; None leaves the last batch short.
        order: (seed, epoch) of the shuffle, or None for the order of the source.
        drop_last: leave out a last batch that is not full.
    """

    examples: int
    batch_size: int
    padded_size: int | None
    _: KW_ONLY
    order: tuple[int, int] | None
    drop_last: bool

    def batches(self, first: int = 0) -> Iterator[BatchRows]:
        """From batch `first` on."""
        return (BatchRows(group.rows[0], group.real[0]) for group in self.groups(1, first))

    def groups(self, count: int, first: int = 0, limit: int | None = None) -> Iterator[BatchGroup]:
        """From batch `first` on, `count` at a time; fewer at the end, where one that is shorter comes by itself.

        Args:
            count: batches in a group.
            first: batches that are left out at the beginning.
            limit: batches in all groups; None for all that there are.
        """
        rows = np.arange(self.examples) if self.order is None else permutation(*self.order, self.examples)
        whole, end = self.examples // self.batch_size, batch_count(self.examples, self.batch_size, self.drop_last)
        end = end if limit is None else min(end, first + limit)
        full, rest = np.split(rows, [whole * self.batch_size])
        full = full.reshape(whole, self.batch_size)
        for start in range(first, end, count):
            stop = min(start + count, end)
            group = _filled(full[start:stop], self.padded_size or self.batch_size, rows)
            real = (self.batch_size,) * len(group)
            if stop > whole:
                last = _filled(rest, self.padded_size or len(rest), rows)[None]
                if last.shape[1] == group.shape[1]:
                    group, real = np.concatenate([group, last]), (*real, len(rest))
                else:
                    if real:
                        yield BatchGroup(group, real)
                    group, real = last, (len(rest),)
            yield BatchGroup(group, real)
