"""`TrainState`: model, optimizer, step and random state of one model, living on the devices."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstrain.errors import ConfigError
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.sharding import ShardingPlan
from crosstrain.snapshot import Snapshot
from crosstrain.updates import Updates

if TYPE_CHECKING:
    from crosstrain.models.spec import ModelConfig


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


class Gradients(abc.ABC):
    """Gradients of one state's parameters on the devices, already averaged over the global batch."""

    @abc.abstractmethod
    def to_host(self) -> dict[str, np.ndarray]:
        """Canonical name -> gradient, canonical layout; of a parameter that stands still, 0. Waits."""

    def global_norm(self) -> float:
        """L2 norm over all gradients together. Waits."""
        return float(np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in self.to_host().values())))


class TrainState(Updates):
    """A handle on one model in training.

    After a step the old device buffers are gone (JAX donates them, torch has overwritten them), so the handle
    always shows the present. Whoever wants the past takes a `snapshot`.

    Attributes:
        sharding_plan: which part of each parameter a device holds; `print(state.sharding_plan.table())` shows it.
    """

    def __init__(self, optimizer: OptimizerSpec | None, average: Averaging | None, plan: ShardingPlan) -> None:
        super().__init__(optimizer, average)
        self.sharding_plan = plan
        self.model_config: ModelConfig | None = None
        """What a paired model was built from; None for a model of the user's own."""

    def require_average(self, averaged: bool) -> None:
        """Refuses `averaged` evaluation of a state that keeps no average.

        Raises:
            ConfigError: says how to keep one.
        """
        if averaged and self._average is None:
            raise ConfigError(
                "averaged=True needs a state that keeps an average, got one without. "
                "Prepare it with one: accelerator.prepare(model, optimizer, average=ct.ema(0.999))."
            )

    @property
    @abc.abstractmethod
    def model(self) -> Any:
        """The live native model, to call and to read; weights are set by `load`.

        On torch it is the module that was prepared. On JAX it is made anew from the state's arrays whenever it is asked
        for, so what is written into it is lost, and its arrays are valid until the next step, which donates them.
        """

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(shape)) for shape in self.parameter_shapes.values())

    @property
    @abc.abstractmethod
    def device_bytes(self) -> StateBytes:
        """What this process's first device holds of the state between steps; there are no gradients then."""

    @abc.abstractmethod
    def to_gradients(self, values: Mapping[str, np.ndarray]) -> Gradients:
        """Gradients from the host (canonical names and layout, one for each trained parameter), for `apply_gradients`.

        Raises:
            ConfigError: names or shapes that this model does not have.
        """

    def snapshot(self) -> Snapshot:
        """A copy on the host. Waits."""
        return self.view().copy()

    @abc.abstractmethod
    def view(self) -> Snapshot:
        """A snapshot whose arrays are read from the devices one by one, when asked for. Valid until the next step."""

    @abc.abstractmethod
    def load(self, snapshot: Snapshot) -> None:
        """Replaces weights, buffers, moments, averages and step by those of a snapshot of either engine.

        Moments and averages are replaced when the snapshot has any; moments that this optimizer does not keep are
        left out. Nothing is replaced when anything is refused.

        Raises:
            ConfigError: names or shapes that this model does not have, or moments of another optimizer.
        """

    @abc.abstractmethod
    def keep(self) -> Callable[[], None]:
        """Copies all of this state on its devices; the result puts it back, bit for bit, once.

        For trying steps and taking them back, with the optimizer that the state has now; a `snapshot` is for keeping.
        """

    @abc.abstractmethod
    def apply_gradients(
        self, gradients: Gradients, *, clip_norm: float | None = None, clip_value: float | None = None
    ) -> None:
        """Takes one optimizer step, at the rate that the schedule gives, and counts it.

        Args:
            gradients: what `Accelerator.value_and_grad` returned for this state; used up by the call.
            clip_norm: scale the gradients so that their global L2 norm is at most this.
            clip_value: bound every element of the gradients to [-clip_value, clip_value]. Only one of both.

        Raises:
            ConfigError: a limit that is not positive, or both, or gradients of other parameters than this state's.
        """


def require_states(*states: Any) -> None:
    """Refuses what is no state, such as the model itself.

    Raises:
        ConfigError: says how to make one.
    """
    for state in states:
        if not isinstance(state, TrainState):
            raise ConfigError(
                f"state must be a TrainState, got {type(state).__name__}. "
                "Prepare the model: state = accelerator.prepare(model, optimizer)."
            )


def require_trainable(state: Any, others: tuple[Any, ...]) -> None:
    """Refuses states that a training step cannot take: no states, or one that is to learn and to stand still.

    Raises:
        ConfigError: says what was given.
    """
    require_states(state, *others)
    if any(other is state for other in others):
        raise ConfigError(
            "the states after the batch must be others than the one in training, got that one again. "
            "loss_fn receives its model as the first argument; to learn from a past self, prepare a second model."
        )


def foreign_gradients(gradients: Any) -> ConfigError:
    """The error for gradients that do not belong to a state's parameters."""
    return ConfigError(
        f"gradients must be those of this state's parameters, got {type(gradients).__name__} of others. "
        "Pass what accelerator.value_and_grad(loss_fn)(state, batch) returned for this very state."
    )
