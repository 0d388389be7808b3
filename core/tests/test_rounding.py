"""Which elements of gradients say nothing: pure cancellation, and what is too small for its rounding."""

import numpy as np

from crosstrain.parity import causes
from crosstrain.parity.rounding import uncertain, vanishing
from crosstrain.step import StepOptions


def gradients(*bias: float) -> dict[str, np.ndarray]:
    return {"weight": np.array([2.0, 1e-6]), "bias": np.array(bias), "unused": np.zeros(2)}


def test_what_is_rounding_on_both_sides_vanishes_element_by_element() -> None:
    found = vanishing(gradients(1e-17, 0.0, 1e-3), gradients(-3e-17, 0.0, 1e-3), 1e-12)
    assert found["bias"].tolist() == [True, True, False]
    assert found["weight"].tolist() == [False, False]


def test_what_vanishes_on_one_side_only_is_a_difference() -> None:
    assert not vanishing(gradients(1e-17), gradients(1e-3), 1e-12)["bias"].any()


def test_a_parameter_without_any_gradient_is_compared() -> None:
    """Its update is decay and momentum, which a step must not leave out."""
    assert not vanishing(gradients(1e-17), gradients(1e-17), 1e-12)["unused"].any()


def test_small_elements_are_uncertain_by_the_largest_gap_of_their_parameter() -> None:
    found = uncertain(gradients(1.0, 1e-8, 0.0), gradients(1.0, 1e-8, 0.0), 1e-10)
    assert found["bias"].tolist() == [False, False, False]
    found = uncertain(gradients(1.0, 1e-8, 0.0), gradients(1.0 + 1e-15, 1e-8 + 1e-15, 0.0), 1e-10)
    assert found["bias"].tolist() == [False, True, True]
    assert not found["weight"].any()


def cause(options: StepOptions, loss: float = 0.0, norm: float = 0.0) -> str:
    return causes.whole({"loss": loss, "grad_norm": norm}, 1e-10, (StepOptions(), options))


def test_only_what_a_side_does_in_a_step_is_named_as_a_cause() -> None:
    assert "clipping" in cause(StepOptions(clip_norm=1.0))
    assert "clipping" in cause(StepOptions(clip_value=1.0))
    assert cause(StepOptions(accumulate_steps=2), loss=1.0).startswith("accumulation: how losses")
    assert cause(StepOptions(accumulate_steps=2), norm=1.0).startswith("accumulation: gradients")
    for text in (cause(StepOptions()), cause(StepOptions(), loss=1.0), cause(StepOptions(), norm=1.0)):
        assert "clipping" not in text
        assert "accumulation" not in text
