"""Perplexity, F1 and top-k over padded and sharded batches: those of all examples, as scikit-learn has them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

import crosstrain as ct
from parity_tests import starting
from parity_tests.definitions import sharded_metrics
from parity_tests.reference.more_losses import logsumexp

BOUND = 1e-12
PARTS = ("tp", "fp", "fn")


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """From the examples themselves, without batches."""
    data = sharded_metrics.examples()
    kept = data["tokens"] != -100
    logits, labels = data["logits"][kept], data["tokens"][kept]
    entropy = logsumexp(logits) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    earlier_first = logits - np.arange(3) * 1e-6  # scikit-learn gives ties to the later class
    return {
        "perplexity": float(np.exp(entropy.mean())),
        "top2": top_k_accuracy_score(labels, earlier_first, k=2),
        "f1": f1_score(data["positive"], data["score"] > 0),
        "macro": f1_score(labels, logits.argmax(-1), average="macro"),
        "micro": f1_score(labels, logits.argmax(-1), average="micro"),
    }


def test_scores_over_padded_batches_are_those_of_all_examples(backend: str, expected: dict[str, float]) -> None:
    found = sharded_metrics.measure(backend)
    assert found == pytest.approx({"devices": 1, **expected}, rel=BOUND)


@pytest.mark.parametrize(
    ("backend", "processes", "devices"),
    [("jax", 1, 4), ("torch", 2, 2)],
    ids=["four JAX devices", "two torch processes"],
)
def test_scores_over_sharded_batches_are_those_of_all_examples(
    backend: str, processes: int, devices: int, expected: dict[str, float], tmp_path: Path
) -> None:
    starting.run(starting.torchrun(processes, sharded_metrics.__file__, backend, devices, tmp_path))
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == processes
    for file in files:
        assert json.loads(file.read_text()) == pytest.approx({"devices": devices, **expected}, rel=BOUND)


@pytest.mark.parametrize(
    ("counts", "macro", "micro"),
    [
        ([(2, 1, 1)], 2 / 3, 2 / 3),
        ([(2, 1, 1), (0, 0, 3)], 1 / 3, 4 / 9),
        ([(2, 1, 1), (0, 0, 0)], 2 / 3, 2 / 3),
        ([(0, 0, 0)], math.nan, math.nan),
    ],
    ids=["one class", "a class that is never found", "a class that is not there", "nothing there"],
)
def test_f1_of_counts(counts: list[tuple[int, int, int]], macro: float, micro: float) -> None:
    values = {f"f1_{part}_{c}": n for c, triple in enumerate(counts) for part, n in zip(PARTS, triple, strict=True)}
    assert ct.f1(values) == pytest.approx(macro, rel=BOUND, nan_ok=True)
    assert ct.f1(values, average="micro") == pytest.approx(micro, rel=BOUND, nan_ok=True)


def test_more_than_ten_classes_keep_their_counts_apart() -> None:
    names = [f"f1_{part}_{c}" for c in range(12) for part in PARTS]
    assert ct.f1({name: float(name in ("f1_tp_1", "f1_fp_11")) for name in names}) == 0.5


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (math.log(50.0), 50.0), (1e4, math.inf)])
def test_perplexity_of_a_loss(loss: float, expected: float) -> None:
    assert ct.perplexity(loss) == pytest.approx(expected, rel=BOUND)


def test_scores_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(ct.ConfigError, match="values must hold f1_tp, f1_fp and f1_fn, got loss"):
        ct.f1({"loss": 1.0})
    with pytest.raises(ct.ConfigError, match="must hold f1_tp"):
        ct.f1({"f1_tp": 1.0, "f1_fp": 1.0})
    with pytest.raises(ct.ConfigError, match="average='weighted'"):
        ct.f1({}, average="weighted")
