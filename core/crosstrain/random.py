"""Randomness that decides a run, from counter-based generators.

Every number is a function of (seed, what it is for, index), never of how many numbers were drawn before. So it is
the same on both engines, on any number of devices, and after any resume. Host-side numbers (initial weights, data
order) come from Philox; device-side numbers (dropout masks) from Threefry-2x32, which needs only add, rotate and
xor and is written once here for NumPy, JAX and torch arrays.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WORD_MASK = 0xFFFFFFFF
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def stable_hash(name: str, *, bits: int = 64) -> int:
    """A hash of `name` that is the same in every process and version (BLAKE2b), `bits` <= 64 wide."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - bits)


def philox(seed: int, name: str) -> np.random.Philox:
    """The Philox-4x64 bit stream of (seed, name); NumPy guarantees that its raw words never change."""
    return np.random.Philox(key=((seed % 2**64) << 64) | stable_hash(name))


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1) of (seed, name); float64, `shape`; 53 random bits each."""
    raw = philox(seed, name).random_raw(max(1, int(np.prod(shape))))
    return ((raw >> np.uint64(11)) * 2.0**-53)[: int(np.prod(shape))].reshape(shape)


def normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of (seed, name) by Box and Muller (1958); float64, `shape`."""
    count = int(np.prod(shape))
    pairs = uniform(seed, name, ((count + 1) // 2, 2))
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, 0]))
    angle = 2.0 * np.pi * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count].reshape(shape)


def truncated_normal(seed: int, name: str, shape: tuple[int, ...], cut: float) -> np.ndarray:
    """Standard normal numbers of (seed, name) within +-cut; float64, `shape`.

    By rejection: element j is the first element j of the streams `name`, `name#1`, `name#2`, ... that lies within.
    """
    values, attempt = normal(seed, name, shape), 0
    while (outside := np.abs(values) > cut).any():
        attempt += 1
        values = np.where(outside, normal(seed, f"{name}#{attempt}", shape), values)
    return values


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of `size` examples in `epoch`; int64, shape (size,); a uniform permutation of (seed, epoch)."""
    return _ascending(philox(seed, f"order/{epoch}").random_raw(size))


def _ascending(keys: np.ndarray) -> np.ndarray:
    """The order that sorts `keys`, equal ones as they come; int64."""
    # NumPy's stable sort of a million takes several times what the other one does, and hardly ever are two keys equal.
    order = np.argsort(keys)
    found = keys[order]
    return np.argsort(keys, kind="stable") if (found[1:] == found[:-1]).any() else order


def _identity(word: Any) -> Any:
    return word


def threefry2x32(key: tuple[Any, Any], x0: Any, x1: Any, *, wrap: Callable[[Any], Any] = _identity) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, Random123), elementwise over broadcast arrays.

    Args:
        key: two 32-bit words (arrays or ints) that broadcast against the counter.
        x0: first counter word.
        x1: second counter word.
        wrap: reduces a sum to 32 bits. Unsigned 32-bit arrays wrap by themselves; where there is no such type
            (torch, Python ints) pass `lambda word: word & WORD_MASK` and use a wider one.

    Returns:
        Two words of random bits in the type of the arguments.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0, x1 = wrap(x0 + schedule[0]), wrap(x1 + schedule[1])
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = wrap(x0 + x1)
            x1 = wrap(x1 << rotation) | (x1 >> (32 - rotation))
            x1 = x1 ^ x0
        x0 = wrap(x0 + schedule[(group + 1) % 3])
        x1 = wrap(x1 + schedule[(group + 2) % 3] + (group + 1))
    return x0, x1


def seed_key(seed: int, stream: str) -> tuple[int, int]:
    """The Threefry key (two Python ints) of one stream of device-side randomness."""
    words = seed % 2**64
    return threefry2x32(
        (words & WORD_MASK, words >> 32), stable_hash(stream, bits=32), 0, wrap=lambda word: word & WORD_MASK
    )


def example_uniform(seed: int, name: str, epoch: int, examples: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for examples of a source, from Threefry-2x32.

    Row i is a function of (seed, name, epoch, examples[i]) only: never of the batch or the process the example is in.

    Args:
        seed: of the run.
        name: what the numbers are for.
        epoch: 0-based.
        examples: their indices in the source, integers, shape (B,).
        count: numbers per example.

    Returns:
        float64, shape (B, count); 53 random bits each.
    """
    epoch_key = threefry2x32(
        seed_key(seed, f"example/{name}"), epoch & WORD_MASK, epoch >> 32, wrap=lambda word: word & WORD_MASK
    )
    words = np.asarray(examples).astype(np.uint64)
    low, high = (words & np.uint64(WORD_MASK)).astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)
    # Arrays, not scalars: only those wrap without a warning.
    first_word, second_word = (np.array([word], dtype=np.uint32) for word in epoch_key)
    key = threefry2x32((first_word, second_word), low, high)
    columns = np.arange(count, dtype=np.uint32)[None, :]
    first, second = threefry2x32((key[0][:, None], key[1][:, None]), columns, np.zeros_like(columns))
    bits = (first.astype(np.uint64) << np.uint64(21)) | (second >> np.uint32(11)).astype(np.uint64)
    return bits * 2.0**-53


@dataclass(frozen=True, slots=True)
class StepRandom:
    """Device-side randomness of one optimizer step: a key, and which example of the global batch each row is.

    Bits depend on (seed, step, layer name, example, feature) only: splitting the batch over devices or
    micro-batches does not change them.

    Attributes:
        key: two 32-bit words, the key of (seed, step).
        rows: position in the global batch of each local example, shape (B,).
        wrap: see `threefry2x32`.
    """

    key: tuple[Any, Any]
    rows: Any
    wrap: Callable[[Any], Any] = _identity

    def bits(self, layer: Any, columns: Any) -> Any:
        """32 random bits for each (example, feature), shape (B, F).

        Args:
            layer: 32-bit hash of the layer's canonical name, in the array type of the key.
            columns: 0 .. F - 1, shape (F,), in the same type.
        """
        layer_key = threefry2x32(self.key, layer, layer ^ layer, wrap=self.wrap)
        return threefry2x32(layer_key, self.rows[:, None], columns[None, :], wrap=self.wrap)[0]


def keep_threshold(rate: float) -> int:
    """Dropout keeps an element when its 32 random bits are below this: P(keep) = 1 - rate."""
    return min(round((1.0 - rate) * 2**32), WORD_MASK)
