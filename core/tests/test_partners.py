"""What has no partner: a hint is asked for where one could help, and constants are left to their own model."""

import numpy as np
import pytest

from crosstrain.parity.constants import left_out
from crosstrain.parity.matching import Parameter, match

WEIGHT, BIAS = Parameter("fc.weight", (4, 6), "weight"), Parameter("fc.bias", (4,), "bias")
MASK, MEAN = Parameter("mask", (4,), "buffer"), Parameter("norm.mean", (4,), "buffer")


def test_a_missing_bias_needs_no_hint() -> None:
    text = match([WEIGHT, BIAS], [WEIGHT]).problem("torch", "jax")
    assert text == "only the torch model has fc.bias: take it away there, or give the jax model the same"
    text = match([WEIGHT], [WEIGHT, BIAS]).problem("torch", "jax")
    assert text == "only the jax model has fc.bias: take it away there, or give the torch model the same"


def test_a_partner_of_the_same_shape_and_another_role_can_be_hinted() -> None:
    other = Parameter("scale", (4,), "norm")
    matching = match([WEIGHT, BIAS], [WEIGHT, other])
    assert matching.ambiguous == {"fc.bias": ("scale",)}
    assert matching.problem("torch", "jax") == "give hints for fc.bias"
    assert match([WEIGHT, BIAS], [WEIGHT, other], {"fc.bias": "scale"}).problem("torch", "jax") == ""


def test_a_buffer_is_no_partner_of_a_parameter() -> None:
    matching = match([BIAS], [MASK])
    assert (matching.missing, matching.unmatched) == (("fc.bias",), ("mask",))


def test_the_same_name_with_another_shape_is_no_missing_parameter() -> None:
    text = match([WEIGHT], [Parameter("fc.weight", (6, 4), "weight")]).problem("torch", "jax")
    assert text == "fc.weight has the shapes (4, 6) and (6, 4), as both engines write it"


def test_long_lists_are_cut() -> None:
    many = [Parameter(f"p{index}.w", (index + 1,), "weight") for index in range(9)]
    assert "p0.w, p1.w, p2.w, p3.w, p4.w, p5.w and 3 more:" in match(many, []).problem("torch", "jax")


ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("theirs", "constants", "kept"),
    [
        ([], {}, False),
        ([MASK], {"mask": ONES}, True),
        ([MASK], {"mask": ONES * np.float32(1 + 2e-7)}, True),
        ([MASK], {"mask": 2 * ONES}, False),
        ([MASK], {}, True),
    ],
    ids=["no partner", "the same", "rounded otherwise", "other values", "a partner that changes"],
)
def test_constants_stay_matched_with_partners_of_the_same_values(
    theirs: list[Parameter], constants: dict[str, np.ndarray], kept: bool
) -> None:
    mine, others = left_out(match([MASK], theirs), {"mask": ONES}, constants, ())
    assert mine == (frozenset() if kept else {"mask"})
    assert others == (frozenset() if kept else constants.keys())


def test_a_hint_keeps_constants_matched() -> None:
    hints = {"mask": "norm.mean"}
    constants = ({"mask": ONES}, {"norm.mean": 2 * ONES})
    assert left_out(match([MASK], [MEAN], hints), *constants, hints) == (frozenset(), frozenset())
