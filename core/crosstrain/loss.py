"""`Loss`: a weighted sum and its weight, the only form in which losses and metrics cross the seam.

A mean of means is wrong as soon as micro-batches, devices or batches hold different numbers of examples or
tokens. Sums and weights add up exactly, so the step keeps both and divides once, by the global weight.
"""

from typing import Any, NamedTuple


class Loss(NamedTuple):
    """A loss or metric as `sum / weight`.

    Attributes:
        sum: scalar device array (or float), the weighted sum of the values.
        weight: scalar device array (or float), the sum of the weights: how many examples or tokens count.
    """

    sum: Any
    weight: Any
