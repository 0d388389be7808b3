"""Which part of every array a device holds: planned here once, obeyed by both engines."""

from crosstrain.sharding.plan import ParamPlan, ShardingPlan
from crosstrain.sharding.planner import plan_model, plan_parameters
from crosstrain.sharding.rules import (
    ACTIVATIONS,
    BATCH_AXES,
    EXPERT_AXIS,
    PIPELINE_AXIS,
    SEQUENCE_AXIS,
    ShardingRules,
)

__all__ = [
    "ACTIVATIONS",
    "BATCH_AXES",
    "EXPERT_AXIS",
    "PIPELINE_AXIS",
    "SEQUENCE_AXIS",
    "ParamPlan",
    "ShardingPlan",
    "ShardingRules",
    "plan_model",
    "plan_parameters",
]
