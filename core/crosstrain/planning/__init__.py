"""`crosstrain plan`: whether a training step fits on chips that are not there, and what it would cost; and
`crosstrain estimate-memory`: what its state holds.

Imports neither framework; the engines read their own programs (`Planner`), core says what follows.
"""

from crosstrain.planning.chips import CHIPS, Chip, Topology
from crosstrain.planning.estimate import MemoryEstimate, estimate_memory
from crosstrain.planning.held import Held
from crosstrain.planning.job import Job, Setup, load_job
from crosstrain.planning.planner import Planner, plan
from crosstrain.planning.report import Measured, Memory, Report, Times
from crosstrain.planning.traffic import Collective, sent_bytes, together
from crosstrain.state import StateBytes

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Held",
    "Job",
    "Measured",
    "Memory",
    "MemoryEstimate",
    "Planner",
    "Report",
    "Setup",
    "StateBytes",
    "Times",
    "Topology",
    "estimate_memory",
    "load_job",
    "plan",
    "sent_bytes",
    "together",
]
