"""Schedules of the learning rate and the momentum: plain functions of the optimizer step, in float64, on the host.

Step `i` (0-based) gives the value of the update that makes the model `i + 1` updates old. The value reaches the
compiled step as data, so both engines use the same numbers and nothing retraces. Past its last step a schedule
keeps its final value; cyclical ones go on. A momentum schedule is a schedule whose values lie in [0, 1).
"""

from crosstrain.schedules.base import Constant, Schedule, as_schedule, constant
from crosstrain.schedules.cyclical import LrRange, Triangular, lr_range, triangular, triangular2
from crosstrain.schedules.one_cycle import (
    OneCycle,
    OneCycleMomentum,
    OptaxOneCycle,
    flat_cos,
    one_cycle,
    one_cycle_momentum,
    optax_one_cycle,
)
from crosstrain.schedules.override import Override
from crosstrain.schedules.smith_one_cycle import (
    SmithOneCycle,
    SmithOneCycleMomentum,
    smith_one_cycle,
    smith_one_cycle_momentum,
)
from crosstrain.schedules.step import MultiStepDecay, StepDecay, multi_step_decay, step_decay
from crosstrain.schedules.torch_one_cycle import (
    TorchOneCycle,
    TorchOneCycleMomentum,
    torch_one_cycle,
    torch_one_cycle_momentum,
)
from crosstrain.schedules.warmed import (
    Cosine,
    Linear,
    Polynomial,
    WarmupStableDecay,
    cosine,
    linear,
    polynomial,
    warmup_stable_decay,
)

__all__ = [
    "Constant",
    "Cosine",
    "Linear",
    "LrRange",
    "MultiStepDecay",
    "OneCycle",
    "OneCycleMomentum",
    "OptaxOneCycle",
    "Override",
    "Polynomial",
    "Schedule",
    "SmithOneCycle",
    "SmithOneCycleMomentum",
    "StepDecay",
    "TorchOneCycle",
    "TorchOneCycleMomentum",
    "Triangular",
    "WarmupStableDecay",
    "as_schedule",
    "constant",
    "cosine",
    "flat_cos",
    "linear",
    "lr_range",
    "multi_step_decay",
    "one_cycle",
    "one_cycle_momentum",
    "optax_one_cycle",
    "polynomial",
    "smith_one_cycle",
    "smith_one_cycle_momentum",
    "step_decay",
    "torch_one_cycle",
    "torch_one_cycle_momentum",
    "triangular",
    "triangular2",
    "warmup_stable_decay",
]
