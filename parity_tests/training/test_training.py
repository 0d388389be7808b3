"""Both engines train every paired model with every recipe to the same losses, norms and weights, in float64."""

import pytest

from crosstrain.parity.compare import FLOAT64_LIMIT

from .matrix import Case, cases, run

QUICK_STEPS, STEPS = 20, 300


def is_quick(case: Case) -> bool:
    """Every recipe on the smallest model, the usual optimizers on the others."""
    return case.model == "mlp" or (case.variant == "plain" and case.optimizer.startswith(("sgd", "adamw")))


CASES = [pytest.param(case, id=str(case), marks=() if is_quick(case) else pytest.mark.slow) for case in cases()]


@pytest.mark.parametrize("case", CASES)
def test_first_steps(case: Case) -> None:
    found = run(case, QUICK_STEPS)
    assert found.worst <= FLOAT64_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_three_hundred_steps(case: Case) -> None:
    found = run(case, STEPS)
    assert found.worst <= FLOAT64_LIMIT
    assert found.last_loss < 3.0
