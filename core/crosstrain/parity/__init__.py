"""Parity: trains one recipe on both engines, and says how far apart they are and whether that is too far."""

from crosstrain.parity.compare import Comparison, accuracy_limit, relative_difference
from crosstrain.parity.findings import Finding
from crosstrain.parity.onestep import OneStep, one_step
from crosstrain.parity.recipe import Recipe, Trace, record
from crosstrain.parity.side import Side
from crosstrain.parity.verdict import Verdict, compare

__all__ = [
    "Comparison",
    "Finding",
    "OneStep",
    "Recipe",
    "Side",
    "Trace",
    "Verdict",
    "accuracy_limit",
    "compare",
    "one_step",
    "record",
    "relative_difference",
]
