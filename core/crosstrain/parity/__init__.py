"""Parity: trains one recipe on both engines, and says how far apart they are and whether that is too far."""

from crosstrain.parity.compare import Comparison, accuracy_limit, relative_difference
from crosstrain.parity.recipe import Recipe, Trace, record

__all__ = ["Comparison", "Recipe", "Trace", "accuracy_limit", "record", "relative_difference"]
