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
        raise _refused("a + b")

    def __mul__(self, other: Any) -> Any:
        """Refused: of the pair that a loss is, Python would make that pair twice for 2."""
        raise _refused("a * b")

    def __sub__(self, other: Any) -> Any:
        """Refused, as `__add__`."""
        raise _refused("a - b")

    def __truediv__(self, other: Any) -> Any:
        """Refused, as `__mul__`."""
        raise _refused("a / b")

    def __neg__(self) -> Any:
        """Refused, as `__mul__`."""
        raise _refused("-a")

    def __radd__(self, other: Any) -> Any:
        """Refused, as `__add__`."""
        return self + other

    def __rmul__(self, other: Any) -> Any:
        """Refused, as `__mul__`."""
        return self * other

    def __rsub__(self, other: Any) -> Any:
        """Refused, as `__sub__`."""
        return self - other


def _refused(what: str) -> LossError:
    return LossError(
        f"losses must be combined by their parts, got {what} of a Loss. For the mean over the examples of both: "
        "Loss(a.sum + b.sum, a.weight + b.weight). For a weighted objective over the same examples: "
        "Loss(a.sum + 0.1 * b.sum, a.weight). For one that is scaled: Loss(0.5 * a.sum, a.weight)."
    )
