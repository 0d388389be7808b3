"""Text for language models: tokenising a batch of strings, and packing documents into windows of one length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstrain.data.sources import Arrays, Source, as_int32
from crosstrain.data.transform import Context, Transform
from crosstrain.errors import DataError, require_count

_IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class _Tokenise(Transform):
    tokenizer: Callable[[Any], Sequence[int]]
    length: int
    pad: int
    field: str

    @property
    def name(self) -> str:
        return "tokenise"

    def apply(self, fields: Arrays, context: Context) -> Arrays:
        if self.field not in fields:
            raise DataError(f"tokenise needs the field {self.field!r}, but the batch has {sorted(fields)}.")
        documents = [np.asarray(self.tokenizer(text)) for text in fields[self.field].tolist()]
        for row, ids in enumerate(documents):
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise DataError(
                    f"tokenizer must return a list of token ids, got {ids.dtype} of shape {ids.shape} "
                    f"for example {context.examples[row]}. Use tokenizer=lambda text: tok(text)['input_ids']."
                )
        lengths = np.array([len(ids) for ids in documents])
        flat = np.concatenate([ids.astype(np.int64) for ids in documents])
        starts = np.cumsum(lengths) - lengths
        # One token more than the window: the labels are the tokens that follow.
        positions = np.arange(self.length + 1)
        there = positions < lengths[:, None]
        window = np.full(there.shape, self.pad, dtype=np.int32)
        window[there] = as_int32(flat[(starts[:, None] + positions)[there]])
        labels = np.where(there[:, 1:], window[:, 1:], _IGNORED_LABEL)
        others = {name: values for name, values in fields.items() if name != self.field}
        return {**others, "tokens": window[:, :-1], "label": labels.astype(np.int32)}


def tokenise(tokenizer: Callable[[Any], Sequence[int]], length: int, *, pad: int = 0, field: str = "text") -> Transform:
    """Turns the strings of a batch into tokens and the labels that follow them; a text per row, cut or padded.

    For long texts `pack` wastes nothing; this is for texts that are examples of their own.

    Args:
        tokenizer: text -> token ids, such as `tok.encode` of an HF tokenizer.
        length: tokens per row, T.
        pad: token that fills short rows; their labels are -100, which losses ignore.
        field: of the strings (or bytes); replaced by `tokens` and `label`, int32, (B, T).

    Raises:
        DataError: a length that is no positive integer.
    """
    require_count("length", length, DataError)
    if not callable(tokenizer):
        raise DataError(f"tokenizer must be a function of a text, got {type(tokenizer).__name__}. Pass tok.encode.")
    return _Tokenise(tokenizer, length, pad, field)


class PackedSource(Source):
    """Windows over documents laid end to end; see `pack`."""

    def __init__(self, tokens: np.ndarray, ends: np.ndarray, length: int, pad: int) -> None:
        self._tokens, self._ends, self._size, self._pad = tokens, ends, length, pad

    def __len__(self) -> int:
        return (len(self._tokens) + self._size - 1) // self._size

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        first = np.asarray(rows, dtype=np.int64)[:, None] * self._size
        places = first + np.arange(self._size)
        there = places < len(self._tokens)
        safe = np.minimum(places, len(self._tokens) - 1)
        document = np.searchsorted(self._ends, safe, side="right")
        begin = np.where(document > 0, self._ends[document - 1], 0)
        tokens = np.where(there, as_int32(self._tokens[safe]), self._pad)
        follows = there & (safe + 1 < self._ends[document])
        following = as_int32(self._tokens[np.minimum(safe + 1, len(self._tokens) - 1)])
        return {
            "tokens": tokens.astype(np.int32),
            "label": np.where(follows, following, _IGNORED_LABEL).astype(np.int32),
            "segment": np.where(there, _rank(document), 0).astype(np.int32),
            "position": np.where(there, safe - np.maximum(begin, first), 0).astype(np.int32),
        }


def _rank(document: np.ndarray) -> np.ndarray:
    """1, 2, ... for the first, second, ... document of each window (empty documents do not count)."""
    changes = np.diff(document, axis=1, prepend=document[:, :1]) != 0
    return 1 + np.cumsum(changes, axis=1)


def pack(documents: Sequence[Any], length: int, *, pad: int = 0) -> Source:
    """Documents end to end, cut into windows of one length; nothing is lost or repeated.

    A document that does not fit goes on in the next window. Within a window `segment` counts the documents from 1 (0
    is padding after the last) and `position` starts at 0 for each, so that a model can keep attention inside a
    document: token i sees token j where segment[i] == segment[j] and j <= i. The paired decoder does when it is called
    as `model(batch["tokens"], segments=batch["segment"])`. The label of a token is the one that
    follows it in its document, across the cut as well; the last token of a document has the label -100.

    Args:
        documents: token ids of each document, vectors of integers.
        length: tokens per window, T.
        pad: token that fills the last window.

    Returns:
        A source of `tokens`, `label`, `segment`, `position`: int32, (B, T).

    Raises:
        DataError: no tokens at all, a document that is no vector of integers, or no positive length.
    """
    require_count("length", length, DataError)
    vectors = [np.asarray(document) for document in documents]
    for index, vector in enumerate(vectors):
        if vector.ndim != 1 or (vector.size and vector.dtype.kind not in "iu"):
            raise DataError(
                f"documents must be vectors of token ids, got {vector.dtype} of shape {vector.shape} "
                f"as document {index}. Tokenise it first."
            )
    ends = np.cumsum([len(vector) for vector in vectors], dtype=np.int64)
    if not len(ends) or ends[-1] == 0:
        raise DataError(f"documents must hold at least one token, got {len(vectors)} documents without any.")
    tokens = np.concatenate([as_int32(vector) for vector in vectors if vector.size])
    return PackedSource(tokens, ends, length, pad)
