"""Reductions over processes, on the rows that each of them gave."""

import numpy as np
import pytest

from crosstrain.folding import fold


@pytest.mark.parametrize(("dtype", "value"), [("int64", 2**62), ("uint64", 2**63), ("uint8", 200), ("bool", True)])
def test_a_mean_of_integers_does_not_wrap_round(dtype: str, value: int) -> None:
    found = fold("mean", np.full((2, 1), value, dtype))
    assert (found.tolist(), found.dtype) == ([float(value)], np.float64)


def test_sums_of_integers_are_64_bits_wide() -> None:
    assert fold("sum", np.full((2, 1), 200, np.uint8)).dtype == np.uint64
    assert fold("sum", np.full((2, 1), -100, np.int8)).tolist() == [-200]
