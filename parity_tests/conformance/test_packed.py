"""Packed documents: a decoder that is given `segments` says of each what it says of the document alone."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct

LENGTHS = (4, 2, 8, 4, 2)
LENGTH = 12
CONFIG = ct.models.GPTConfig(vocab_size=32, dim=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=LENGTH)
rng = np.random.default_rng(0)
DOCUMENTS = [rng.integers(0, 32, length) for length in LENGTHS]


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> ct.Loss:
    return ops.cross_entropy(model(batch["tokens"], segments=batch["segment"]), batch["label"])


def logits_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    return model(batch["tokens"], segments=batch["segment"])


def plain_loss(model: Any, batch: Any, ops: ct.Ops) -> ct.Loss:
    return ops.cross_entropy(model(batch["tokens"]), batch["label"])


def pieces(packed: dict[str, np.ndarray]) -> list[tuple[int, slice]]:
    """Row and columns of each run of one document, as the windows cut it."""
    found = []
    for row, segments in enumerate(packed["segment"]):
        for number in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == number)
            found.append((row, slice(where[0], where[-1] + 1)))
    return found


@pytest.fixture
def packed() -> dict[str, np.ndarray]:
    source = ct.data.pack(DOCUMENTS, LENGTH)
    return source.gather(np.arange(len(source)))


@pytest.fixture
def prepared(make: Any) -> Any:
    accelerator = make()
    return accelerator, accelerator.prepare(ct.models.build("gpt", CONFIG, accelerator), ct.sgd(0.1))


def test_each_document_is_as_it_would_be_alone(prepared: Any, packed: dict[str, np.ndarray]) -> None:
    accelerator, state = prepared
    with_segments = accelerator.predict_step(logits_fn)
    alone = accelerator.predict_step(lambda model, batch, ops: model(batch["tokens"]))
    together = with_segments(state, packed)["prediction"]
    crossing = alone(state, packed)["prediction"]
    assert len(pieces(packed)) == 6, "a document is cut by a window"
    for row, columns in pieces(packed):
        expected = alone(state, {"tokens": packed["tokens"][row : row + 1, columns]})["prediction"][0]
        np.testing.assert_allclose(together[row, columns], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        if columns.start:
            difference = np.abs(crossing[row, columns] - expected).max()
            assert difference > 1e-4, "without segments it sees what came before"


def test_gradients_are_the_sum_of_those_of_the_documents(prepared: Any, packed: dict[str, np.ndarray]) -> None:
    accelerator, state = prepared
    metrics, gradients = accelerator.value_and_grad(loss_fn)(state, packed)
    alone = accelerator.value_and_grad(plain_loss)
    counted = (packed["label"] != -100).sum()
    loss, total = 0.0, {name: np.zeros(shape) for name, shape in state.parameter_shapes.items()}
    for row, columns in pieces(packed):
        batch = {name: packed[name][row : row + 1, columns] for name in ("tokens", "label")}
        share = (batch["label"] != -100).sum() / counted
        if share:
            part, more = alone(state, batch)
            loss += share * part["loss"]
            total = {name: total[name] + share * values for name, values in more.to_host().items()}
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)
    for name, values in gradients.to_host().items():
        np.testing.assert_allclose(values, total[name], rtol=0, atol=1e-12 * np.abs(total[name]).max(), err_msg=name)


def test_engines_agree_on_packed_rows(packed: dict[str, np.ndarray]) -> None:
    found = []
    for backend in ("jax", "torch"):
        accelerator = ct.Accelerator(backend, precision="fp64")
        state = accelerator.prepare(ct.models.build("gpt", CONFIG, accelerator), ct.sgd(0.1))
        metrics, gradients = accelerator.value_and_grad(loss_fn)(state, packed)
        found.append((metrics["loss"], gradients.to_host()))
    (loss, gradients), (other, others) = found
    assert loss == pytest.approx(other, rel=1e-12)
    for name, values in gradients.items():
        np.testing.assert_allclose(values, others[name], rtol=0, atol=1e-12 * np.abs(values).max(), err_msg=name)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (np.ones((2, LENGTH - 1), np.int32), r"segments must have shape \(2, 12\), got \(2, 11\)"),
        (np.ones((2, LENGTH)), "segments must be integers, got .*float64. Pass a number per document"),
    ],
)
def test_segments_that_are_none_are_refused(
    prepared: Any, packed: dict[str, np.ndarray], segments: np.ndarray, message: str
) -> None:
    accelerator, state = prepared
    with pytest.raises(ct.ModelError, match=message):
        accelerator.value_and_grad(loss_fn)(state, {**packed, "segment": segments})
