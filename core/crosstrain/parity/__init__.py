"""Parity: trains one recipe on both engines, and says how far apart they are and whether that is too far."""

from crosstrain.parity.compare import Comparison, accuracy_limit, relative_difference
from crosstrain.parity.envelope import LowPrecision, compare_low_precision
from crosstrain.parity.examine import Report, examine
from crosstrain.parity.findings import Finding
from crosstrain.parity.onestep import OneStep, one_step
from crosstrain.parity.port import Port, load_port
from crosstrain.parity.power import Planted, detection
from crosstrain.parity.recipe import Recipe, Trace, record
from crosstrain.parity.side import Side
from crosstrain.parity.testing import assert_same_training
from crosstrain.parity.verdict import Verdict, compare

__all__ = [
    "Comparison",
    "Finding",
    "LowPrecision",
    "OneStep",
    "Planted",
    "Port",
    "Recipe",
    "Report",
    "Side",
    "Trace",
    "Verdict",
    "accuracy_limit",
    "assert_same_training",
    "compare",
    "compare_low_precision",
    "detection",
    "examine",
    "load_port",
    "one_step",
    "record",
    "relative_difference",
]
