"""How far a number may be from its definition: one table, (quantity, dtype) -> bound, each with its reason.

Differences are the largest one of an array, relative to the array's largest element: single elements near zero are
differences of large ones, and carry their rounding. Imports nothing of crosstrain.
"""

from typing import NamedTuple

import numpy as np


class Bound(NamedTuple):
    """A bound and why it is no tighter."""

    value: float
    reason: str


TOLERANCES = {
    ("rate", "float64"): Bound(1e-14, "the same formula on the same machine: a cosine and a few products of rounding"),
    ("loss", "float64"): Bound(1e-12, "sums of up to 1e3 terms, in another order on each engine: 1e3 ulp at worst"),
    ("activation", "float64"): Bound(1e-12, "as for losses"),
    ("gradient", "float64"): Bound(1e-12, "as for losses"),
    ("statistics", "float64"): Bound(1e-12, "means and variances over a batch: as for losses"),
    ("weights", "float64"): Bound(1e-12, "100 updates from identical gradients: each adds a few ulp of the weight"),
    ("moments", "float64"): Bound(1e-12, "100 updates from identical gradients, as for weights"),
    ("average", "float64"): Bound(1e-12, "as for the weights that it averages"),
    ("norm at mean 1e3", "float32"): Bound(2e-3, "16 ulp of the mean; means of squares would lose 1e6 ulp of variance"),
    ("update", "float32"): Bound(5e-7, "8 ulp: two moments, two corrections, a root and two quotients"),
    ("update", "bfloat16"): Bound(2e-2, "5 ulp: weights and moments are rounded after every operation"),
}


def bound(quantity: str, dtype: str = "float64") -> float:
    """The largest difference that `quantity` may have."""
    return TOLERANCES[quantity, dtype].value


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest element; of zeros, the largest difference itself; NaN stays NaN."""
    assert np.shape(found) == np.shape(expected), (np.shape(found), np.shape(expected))
    scale = np.abs(expected).max()
    return float(np.abs(np.asarray(found) - expected).max() / (scale if scale > 0 else 1.0))


def assert_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], quantity: str, dtype: str = "float64"
) -> None:
    """Every array within the bound of `quantity`; says which is not, and by how much."""
    assert found.keys() == expected.keys()
    apart = {name: difference(found[name], expected[name]) for name in expected}
    limit = bound(quantity, dtype)
    wrong = {name: value for name, value in apart.items() if not value <= limit}
    assert not wrong, f"{quantity} ({dtype}) may differ by {limit:g}: {wrong}"
