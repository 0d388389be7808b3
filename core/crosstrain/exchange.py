"""What processes send each other: bytes of any length, after they have agreed that they are in the same call.

The first message of every exchange has one fixed size. It holds a digest of the call (operation, paths, shapes, types),
the length of the data, and their beginning. Processes that disagree therefore find out in a collective that all of
them understand, instead of waiting in two that do not match; and small data need no second message.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosstrain.errors import CollectiveError

AllGather = Callable[[np.ndarray], np.ndarray]
"""uint8 of shape (n,), the same n on every process -> shape (process_count, n)."""

_DIGEST_BYTES = 16
_HEAD_BYTES = 32  # digest, length, room; a multiple of every element size, so that no number is cut in two
_FIRST_BYTES = 1024
_SLAB_BYTES = 16 * 2**20
_PACKAGES = ("crosstrain", "crosstrain_jax", "crosstrain_torch", "contextlib")


@dataclass(frozen=True, slots=True)
class Call:
    """What a process is about to do together with the others.

    Attributes:
        operation: its name, with the options that must agree.
        parts: for each leaf its path, and its shape and type in words.
    """

    operation: str
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> np.ndarray:
        """uint8, shape (16,); equal only for equal calls."""
        text = repr((self.operation, self.parts)).encode()
        return np.frombuffer(hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest(), np.uint8)


def slabs(all_gather: AllGather, call: Call, data: np.ndarray) -> Iterator[np.ndarray]:
    """Exchanges bytes, a bounded number at a time.

    Args:
        all_gather: see `AllGather`.
        call: what this process does.
        data: uint8, shape (n,); n may differ between processes.

    Yields:
        uint8, shape (process_count, m): the next m bytes of every process, zeros after the end of the shorter ones.

    Raises:
        CollectiveError: the processes are not in the same call. Every process raises it.
    """
    rows = all_gather(_first_message(call, data))
    if (rows[:, :_DIGEST_BYTES] != call.digest).any():
        _explain(all_gather, call)
    longest = int(rows[:, _DIGEST_BYTES : _DIGEST_BYTES + 8].copy().view("<u8").max())
    start = _FIRST_BYTES - _HEAD_BYTES
    yield rows[:, _HEAD_BYTES : _HEAD_BYTES + longest]
    while start < longest:
        count = min(_SLAB_BYTES, longest - start)
        # JAX compiles a program for each length; powers of two keep them few.
        message = np.zeros(1 << (count - 1).bit_length(), np.uint8)
        mine = data[start : start + count]
        message[: mine.size] = mine
        yield all_gather(message)[:, :count]
        start += count


def messages(all_gather: AllGather, call: Call, data: np.ndarray) -> list[bytes]:
    """The bytes of every process, in their order.

    Raises:
        CollectiveError: as `slabs`.
    """
    framed = np.concatenate([np.array([data.size], "<u8").view(np.uint8), data])
    rows = np.concatenate(list(slabs(all_gather, call, framed)), axis=1)
    return [row[8 : 8 + int(row[:8].copy().view("<u8")[0])].tobytes() for row in rows]


def _first_message(call: Call, data: np.ndarray) -> np.ndarray:
    message = np.zeros(_FIRST_BYTES, np.uint8)
    message[:_DIGEST_BYTES] = call.digest
    message[_DIGEST_BYTES : _DIGEST_BYTES + 8] = np.array([data.size], "<u8").view(np.uint8)
    beginning = data[: _FIRST_BYTES - _HEAD_BYTES]
    message[_HEAD_BYTES : _HEAD_BYTES + beginning.size] = beginning
    return message


def _explain(all_gather: AllGather, call: Call) -> None:
    """Every process has seen the same digests, so all of them are here, and can tell each other where they were."""
    mine = "\0".join([call.operation, _caller(), *(text for part in call.parts for text in part)])
    told = [text.decode() for text in messages(all_gather, Call("explain"), np.frombuffer(mine.encode(), np.uint8))]
    calls, places = [], []
    for text in told:
        operation, place, *parts = text.split("\0")
        calls.append(Call(operation, tuple(zip(parts[::2], parts[1::2], strict=True))))
        places.append(place)
    raise CollectiveError(disagreement(calls, places))


def disagreement(calls: Sequence[Call], places: Sequence[str]) -> str:
    """The message for calls that differ: which processes did what, and where; leaves that agree are left out."""
    common = set.intersection(*(set(call.parts) for call in calls))
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (call, place) in enumerate(zip(calls, places, strict=True)):
        differing = [f"{path}: {text}" for path, text in call.parts if (path, text) not in common]
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        shown = f" of {', '.join(differing[:8])}{more}" if differing else ""
        groups.setdefault((f"{call.operation}{shown}", place), []).append(index)
    said = "; ".join(f"{_processes(found)}: {what} ({place})" for (what, place), found in groups.items())
    if len({call.operation for call in calls}) > 1:
        return (
            f"every process must make the same call, got {said}. "
            "Call it on all processes, in the same order, outside conditions that only some of them meet."
        )
    return (
        f"{calls[0].operation} must get the same tree, shapes and types on every process, got {said}. "
        "Make them equal (pad_across_processes does it for one dimension), or use gather_object."
    )


def _processes(indices: Sequence[int]) -> str:
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"


def _caller() -> str:
    """File and line of the innermost frame that is not crosstrain's own."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
