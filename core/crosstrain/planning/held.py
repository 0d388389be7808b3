"""`Held`: the bytes of a training state, as an engine reads them off the shapes of its own arrays."""

from dataclasses import dataclass, fields

from crosstrain.sharding import ShardingPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """Bytes by what they are for.

    Attributes:
        parameters: weights, in the precision's `param_dtype`.
        gradients: one for each parameter that learns, in the same type. They are there in a step only.
        optimizer: moments, and the engine's counts of updates.
        average: of the weights; 0 where none is kept.
        buffers: running statistics, tables, and counters of the state.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))


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
