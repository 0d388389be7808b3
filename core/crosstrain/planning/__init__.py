"""`crosstrain plan`: whether a training step fits on chips that are not there, and what it would cost.

Imports neither framework; the engines read their own programs (`Planner`), core says what follows.
"""

from crosstrain.planning.chips import CHIPS, Chip, Topology
from crosstrain.planning.job import Job, load_job
from crosstrain.planning.planner import Planner, plan
from crosstrain.planning.report import Measured, Memory, Report, Times
from crosstrain.planning.traffic import Collective, sent_bytes, together

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Job",
    "Measured",
    "Memory",
    "Planner",
    "Report",
    "Times",
    "Topology",
    "load_job",
    "plan",
    "sent_bytes",
    "together",
]
