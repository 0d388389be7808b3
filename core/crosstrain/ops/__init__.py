"""`ops`: losses and metrics with one definition. Weighting is said here; the engines give the values.

The step hands `loss_fn` an `Ops` that knows the weight of every example in this batch, so padded examples
(weight 0) drop out of every loss and metric without a word in the user's code.
"""

from crosstrain.ops.losses import LossOps
from crosstrain.ops.metrics import MetricOps


class Ops(LossOps, MetricOps):
    """Losses and metrics over one batch of B examples. Each returns a `Loss`, or a dict of them.

    Inputs are device arrays whose first dimension is B. Values are computed in float32, or in float64 when the run is.
    """


__all__ = ["Ops"]
