"""For test suites: holds a port to the model it was ported from, and fails with the report when they part."""

from crosstrain.parity.dropout import dropout_findings, without_native_dropout
from crosstrain.parity.port import Port
from crosstrain.parity.side import Side
from crosstrain.parity.verdict import Verdict, compare_open


def assert_same_training(
    a: Side | Port, b: Side | None = None, *, total_steps: int | None = None, free_steps: int = 20
) -> Verdict:
    """Fails unless two sides (or both models of a port) are the same algorithm in float64.

    Dropout whose masks a framework draws is switched off, and compared call by call.

    Args:
        a: the reference side, or a `Port` that holds both models.
        b: the other side; None with a port.
        total_steps: length of the run, for the schedule; by default the port's, or `free_steps`.
        free_steps: free-running steps after the resynchronised ones.

    Returns:
        The verdict.

    Raises:
        AssertionError: with the places where the two part, in causal order.
    """
    if isinstance(a, Port):
        reference, other, matching = a.sides()
        if not matching.complete:
            problem = matching.problem(reference.backend, other.backend)
            raise AssertionError(f"the parameters could not be matched: {problem}.")
        total_steps = a.total_steps if total_steps is None else total_steps
    else:
        if b is None:
            raise TypeError("assert_same_training needs two sides, or one Port, got one side.")
        reference, other = a, b
    reference, other, _, layers = without_native_dropout(reference, other)
    lives = reference.open("fp64"), other.open("fp64")
    dropout, steps = dropout_findings(*lives, layers), total_steps or free_steps
    start = lives[0].snapshot()
    verdict = compare_open(*lives, total_steps=steps, free_steps=free_steps, start=start).also(dropout)
    if not verdict.same_algorithm:
        lines = "\n".join(f"  {finding}" for finding in verdict.findings[:10])
        raise AssertionError(f"{verdict.backends[0]} and {verdict.backends[1]} are not the same algorithm:\n{lines}")
    return verdict
