"""`History`: what was logged and evaluated."""

from dataclasses import dataclass, field

import numpy as np

from crosstrain.callbacks import Record


@dataclass(slots=True)
class History:
    """What `fit` logged and evaluated, in order.

    Attributes:
        train: logged steps.
        evaluations: evaluations.
        stop_reason: why the last `fit` ended early, such as `SIGTERM`; None when it came to its end.
    """

    train: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    stop_reason: str | None = None

    def values(self, name: str) -> np.ndarray:
        """A logged training metric over time, float64, shape (number of records,)."""
        return np.array([record.values[name] for record in self.train])
