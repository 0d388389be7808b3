"""Tokenising a batch of texts, and packing documents into windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crosstrain as ct
from crosstrain.data.transform import Context

documents_of_any_length = st.lists(
    st.lists(st.integers(0, 60_000), max_size=12).map(lambda ids: np.array(ids, dtype=np.int64)), min_size=1, max_size=9
).filter(lambda documents: sum(map(len, documents)))


@given(documents_of_any_length, st.integers(1, 10))
def test_packing_loses_and_repeats_nothing(documents, length):
    source = ct.data.pack(documents, length, pad=7)
    packed = source.gather(np.arange(len(source)))
    total = sum(map(len, documents))
    there = packed["segment"].reshape(-1) > 0
    assert there.sum() == total
    np.testing.assert_array_equal(packed["tokens"].reshape(-1)[:total], np.concatenate(documents))
    assert (packed["tokens"].reshape(-1)[total:] == 7).all()
    labels = np.concatenate([[*document[1:], -100] for document in documents if len(document)])
    np.testing.assert_array_equal(packed["label"].reshape(-1)[:total], labels)
    assert (packed["label"].reshape(-1)[total:] == -100).all()


@given(documents_of_any_length, st.integers(1, 10))
def test_segments_and_positions_are_those_of_a_loop_over_tokens(documents, length):
    source = ct.data.pack(documents, length)
    expected = []
    for index, document in enumerate(documents):
        expected += [(index, token) for token in document]
    packed = source.gather(np.arange(len(source)))
    for window in range(len(source)):
        segment, position, last = 0, 0, None
        for place, (index, _) in enumerate(expected[window * length : (window + 1) * length]):
            segment, position = (segment, position + 1) if index == last else (segment + 1, 0)
            last = index
            assert packed["segment"][window, place] == segment
            assert packed["position"][window, place] == position


def test_a_packed_window_by_hand():
    source = ct.data.pack([[1, 2, 3], [], [4], [5, 6, 7, 8]], 5)
    packed = source.gather(np.array([1, 0]))
    assert packed["tokens"].tolist() == [[6, 7, 8, 0, 0], [1, 2, 3, 4, 5]]
    assert packed["label"].tolist() == [[7, 8, -100, -100, -100], [2, 3, -100, -100, 6]]
    assert packed["segment"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 2, 3]]
    assert packed["position"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 0, 0]]


@pytest.mark.parametrize(
    ("documents", "length", "message"),
    [
        ([], 4, "at least one token, got 0 documents"),
        ([[], []], 4, "at least one token, got 2 documents"),
        ([[1], ["a"]], 4, "got <U1 of shape .* as document 1. Tokenise it first"),
        ([[[1, 2]]], 4, r"of shape \(1, 2\)"),
        ([[1]], 0, "length=0"),
        ([[2**31]], 4, "must fit into 32 bits"),
    ],
)
def test_documents_that_cannot_be_packed_are_refused(documents, length, message):
    with pytest.raises(ct.DataError, match=message):
        ct.data.pack(documents, length)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.integers(1, 6))
def test_tokenising_cuts_and_pads_every_text(texts, length):
    transform = ct.data.tokenise(lambda text: [ord(letter) for letter in text], length, pad=1)
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    fields = {"text": values, "kind": np.arange(len(texts))}
    given_ = transform.apply(fields, Context(seed=0, epoch=0, examples=np.arange(len(texts))))
    assert given_.keys() == {"kind", "tokens", "label"}
    for row, text in enumerate(texts):
        ids = [ord(letter) for letter in text[: length + 1]]
        tokens = ids[:length] + [1] * (length - len(ids[:length]))
        labels = ids[1:] + [-100] * (length - len(ids[1:]))
        assert given_["tokens"][row].tolist() == tokens
        assert given_["label"][row].tolist() == labels
