"""What a loss function may return, and what a predict function may: reading, weighting, errors."""

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.objective import drop_padding, read_outputs, read_predictions

SCALAR = np.array(2.0)
LOSS = ct.Loss(np.array(6.0), np.array(3.0))


@pytest.mark.parametrize(
    ("outputs", "loss", "metrics"),
    [
        (SCALAR, ct.Loss(16.0, 8.0), {}),
        (2.0, ct.Loss(16.0, 8.0), {}),
        (LOSS, LOSS, {}),
        ((LOSS, {}), LOSS, {}),
        ((SCALAR, {"accuracy": LOSS}), ct.Loss(16.0, 8.0), {"accuracy": LOSS}),
        ((LOSS, {"entropy": SCALAR, "accuracy": LOSS}), LOSS, {"entropy": ct.Loss(16.0, 8.0), "accuracy": LOSS}),
    ],
    ids=["scalar", "float", "loss", "no-metrics", "loss-metric", "mixed"],
)
def test_a_mean_weighs_as_many_examples_as_the_batch_has(outputs, loss, metrics):
    assert read_outputs(outputs, examples=8, padded=False) == (loss, metrics)


def test_losses_are_read_from_padded_batches():
    assert read_outputs((LOSS, {"accuracy": LOSS}), examples=8, padded=True) == (LOSS, {"accuracy": LOSS})


@pytest.mark.parametrize(
    ("outputs", "padded", "message"),
    [
        (None, False, "loss must be a scalar array, got NoneType"),
        ("loss", False, "loss must be a scalar array, got str"),
        (np.zeros(8), False, r"loss must be a scalar, got shape \(8,\)"),
        (np.zeros((1,)), False, r"got shape \(1,\)"),
        (ct.Loss(np.zeros(8), 8.0), False, r"loss.sum must be a scalar, got shape \(8,\)"),
        (ct.Loss(8.0, np.ones(8)), False, r"loss.weight must be a scalar, got shape \(8,\)"),
        ((SCALAR, SCALAR), False, "got a tuple of ndarray, ndarray"),
        ((SCALAR, {}, {}), False, "got a tuple of ndarray, dict, dict"),
        ([SCALAR, {}], False, "got list"),
        ({"loss": SCALAR}, False, "got dict"),
        ((SCALAR, {"top5": np.zeros(8)}), False, r"top5 must be a scalar, got shape \(8,\)"),
        ((SCALAR, {"loss": SCALAR}), False, "must not be called loss"),
        ((SCALAR, {"grad_norm": SCALAR}), False, "must not be called"),
        ((SCALAR, {"learning_rate": SCALAR}), False, "must not be called"),
        ((SCALAR, {"examples_per_second": SCALAR}), False, "got examples_per_second. Rename it"),
        (SCALAR, True, "loss must be a Loss.* when batches are padded"),
        ((LOSS, {"accuracy": SCALAR}), True, "accuracy must be a Loss.* when batches are padded"),
    ],
)
def test_anything_else_is_refused_with_what_was_given(outputs, padded, message):
    with pytest.raises(ct.LossError, match=message):
        read_outputs(outputs, examples=8, padded=padded)


@pytest.mark.parametrize(
    ("combine", "given"),
    [
        (lambda loss: loss + loss, r"a \+ b"),
        (lambda loss: sum([loss, loss]), r"a \+ b"),
        (lambda loss: loss - loss, "a - b"),
        (lambda loss: 1.0 - loss, "a - b"),
        (lambda loss: 2 * loss, r"a \* b"),
        (lambda loss: loss * 0.5, r"a \* b"),
        (lambda loss: loss / 2, "a / b"),
        (lambda loss: -loss, "-a"),
    ],
    ids=["add", "sum", "sub", "rsub", "times-int", "times-float", "div", "neg"],
)
def test_arithmetic_with_losses_says_how_to_combine_them(combine, given):
    with pytest.raises(ct.LossError, match=rf"got {given} of a Loss.*scaled: Loss\(0\.5 \* a\.sum, a\.weight\)"):
        combine(LOSS)


def test_a_bare_mean_over_padding_says_what_to_return():
    with pytest.raises(ct.LossError, match=r"ops\.mean.*drop_last=True"):
        read_outputs(SCALAR, examples=8, padded=True)


BATCH = {"x": np.zeros((4, 3)), "weight": np.array([1.0, 1, 1, 0])}


@pytest.mark.parametrize(
    ("outputs", "names"),
    [(np.ones((4, 2)), {"prediction"}), ({"label": np.ones(4), "score": np.ones((4, 1))}, {"label", "score"})],
)
def test_predictions_are_arrays_with_one_row_per_example(outputs, names):
    assert set(read_predictions(outputs, {"x": BATCH["x"]}, "weight")) == names
    assert set(read_predictions(outputs, BATCH, "weight")) == names | {"weight"}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.ones(3), r"got prediction of shape \(3,\) for 4 examples"),
        (np.array(1.0), r"got prediction of shape \(\) for 4 examples"),
        ({"score": np.ones((2, 4))}, r"got score of shape \(2, 4\)"),
        ({"score": 1.0}, r"got score of shape \(\)"),
    ],
)
def test_predictions_of_another_length_are_refused(outputs, message):
    with pytest.raises(ct.LossError, match=message):
        read_predictions(outputs, BATCH, "weight")


def test_padding_is_dropped_from_predictions():
    arrays = {"prediction": np.arange(8.0).reshape(4, 2), "weight": BATCH["weight"]}
    kept = drop_padding(arrays, "weight")
    assert set(kept) == {"prediction"}
    np.testing.assert_array_equal(kept["prediction"], np.arange(6.0).reshape(3, 2))


def test_predictions_of_a_batch_without_padding_stay_whole():
    arrays = {"prediction": np.ones(4)}
    assert drop_padding(arrays, "weight") is arrays
