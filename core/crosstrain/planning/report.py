"""What a plan found: `Measured` as an engine reads it off the program, `Report` with what follows for a chip."""

from dataclasses import dataclass

from crosstrain.planning.chips import Topology
from crosstrain.planning.traffic import Collective, sent_bytes
from crosstrain.sharding import ShardingPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one device while the step runs.

    Attributes:
        state: weights, moments, averages, counters and the batch: what the step is given.
        outputs: what it returns in memory of its own; donated state is returned where it was.
        temporaries: activations, gradients and what collectives need, at their peak.
        limit: what the compiler refused to go beyond; None where it did not say.
    """

    state: float
    outputs: float
    temporaries: float
    limit: float | None = None

    @property
    def total(self) -> float:
        """All of it."""
        return self.state + self.outputs + self.temporaries


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What an engine found out about one step on one device.

    Attributes:
        plan: where parameters lie.
        memory: None where the compiler gave up before it could say.
        flops: of matrix products and convolutions, an equal share of the whole step's.
        hbm_bytes: read and written, as the compiler counts them; None where nobody knows.
        collectives: with how often they run.
        complete: whether every loop said how often it runs.
        refusal: why there is no program; empty where there is one.
        notes: what these numbers leave out.
        compile_s: seconds that it took.
    """

    plan: ShardingPlan
    memory: Memory | None
    flops: float
    hbm_bytes: float | None
    collectives: tuple[Collective, ...]
    complete: bool = True
    refusal: str = ""
    notes: tuple[str, ...] = ()
    compile_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of a step, each part at the chip's peak. No promise: kernels reach a part of it.

    Attributes:
        compute: FLOPs at the peak of bfloat16 products, whatever the precision.
        memory: bytes to and from HBM at its bandwidth.
        communication: every collective over one ring at a time, both ways along one dimension of the torus.
    """

    compute: float
    memory: float
    communication: float

    @property
    def overlapped(self) -> float:
        """When everything happens at the same time: the longest part."""
        return max(self.compute, self.memory, self.communication)

    @property
    def serial(self) -> float:
        """When nothing does: compute or memory, whichever is longer, and then communication."""
        return max(self.compute, self.memory) + self.communication


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A step on a topology."""

    backend: str
    topology: Topology
    measured: Measured

    @property
    def fits(self) -> bool | None:
        """Whether it fits into a chip's memory; None where the topology has no chip to ask."""
        if self.measured.refusal:
            return False
        if self.topology.chip is None or self.measured.memory is None:
            return None
        return self.measured.memory.total <= self.topology.chip.hbm_bytes

    @property
    def times(self) -> Times | None:
        """An estimate from the chip's peaks; None without a chip or a program."""
        chip = self.topology.chip
        if chip is None or self.measured.refusal:
            return None
        return Times(
            compute=self.measured.flops / chip.flops_per_s,
            memory=(self.measured.hbm_bytes or 0.0) / chip.hbm_bytes_per_s,
            communication=self.sent_bytes / (2 * chip.link_bytes_per_s),
        )

    @property
    def sent_bytes(self) -> float:
        """What a chip sends per step."""
        return sent_bytes(self.measured.collectives)

    @property
    def mesh(self) -> str:
        """The axes that are larger than 1."""
        return ", ".join(f"{axis}={size}" for axis, size in self.measured.plan.mesh.items() if size > 1) or "one device"
