"""What `Trainer` is made of: the loop, its history, plans of rates, and the learning-rate finder."""

from crosstrain.training.history import History
from crosstrain.training.loop import Loop

__all__ = ["History", "Loop"]
