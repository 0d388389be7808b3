"""`Loss`: a weighted sum and its weight, the only form in which losses and metrics cross the seam.

A mean of means is wrong as soon as micro-batches, devices or batches hold different numbers of examples or
tokens. Sums and weights add up exactly, so the step keeps both and divides once, by the global weight.
"""

from typing import Any, NamedTuple

from crosstrain.errors import LossError


class Loss(NamedTuple):
    """A loss or metric as `sum / weight`.

    Attributes:
        sum: scalar device array (or float), the weighted sum of the values.
        weight: scalar device array (or float), the sum of the weights: how many examples or tokens count. A constant:
            no gradient flows through it.
    """

    sum: Any
    weight: Any

    def __add__(self, other: Any) -> Any:
        """Refused: the sum of two losses, and the loss over the examples of both, are different things."""
        raise LossError(
            "losses must be combined by their parts, got Loss + ... . For the mean over the examples of both: "
            "Loss(a.sum + b.sum, a.weight + b.weight). For a weighted objective over the same examples: "
            "Loss(a.sum + 0.1 * b.sum, a.weight)."
        )

    def __radd__(self, other: Any) -> Any:
        """Refused, as `__add__`."""
        return self + other
