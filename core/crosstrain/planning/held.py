"""`Held`: the bytes of a training state, as an engine reads them off the shapes of its own arrays."""

from dataclasses import dataclass

from crosstrain.sharding import ShardingPlan
from crosstrain.state import StateBytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What a state holds.

    Attributes:
        plan: where its parameters lie.
        device: bytes of one device; in a pipeline of the first stage's.
        whole: of one copy of everything, however it is split.
    """

    plan: ShardingPlan
    device: StateBytes
    whole: StateBytes
