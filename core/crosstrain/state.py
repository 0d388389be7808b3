"""`TrainState`: model, optimizer, step and random state of one model, living on the devices."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crosstrain.errors import ConfigError
from crosstrain.optim import Averaging, LayerGroup, OptimizerSpec, ParamSettings, Role
from crosstrain.snapshot import Snapshot


class Gradients(abc.ABC):
    """Gradients of one state's parameters on the devices, already averaged over the global batch."""

    @abc.abstractmethod
    def to_host(self) -> dict[str, np.ndarray]:
        """Canonical name -> gradient, canonical layout. Waits."""

    def global_norm(self) -> float:
        """L2 norm over all gradients together. Waits."""
        return float(np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in self.to_host().values())))


class TrainState(abc.ABC):
    """A handle on one model in training.

    After a step the old device buffers are gone (JAX donates them, torch has overwritten them), so the handle
    always shows the present. Whoever wants the past takes a `snapshot`.
    """

    def __init__(self, optimizer: OptimizerSpec | None, average: Averaging | None) -> None:
        self._optimizer, self._average = optimizer, average
        self._step = 0

    @property
    def step(self) -> int:
        """How many optimizer steps this state has taken."""
        return self._step

    @property
    def is_trainable(self) -> bool:
        """Whether the state was prepared with an optimizer."""
        return self._optimizer is not None

    @property
    def optimizer(self) -> OptimizerSpec:
        """The spec this state is trained with.

        Raises:
            ConfigError: the state was prepared without an optimizer.
        """
        if self._optimizer is None:
            raise ConfigError(
                "this state was prepared without an optimizer, so it can only be evaluated. "
                "Pass one: accelerator.prepare(model, ct.adamw(1e-3))."
            )
        return self._optimizer

    @property
    def learning_rate(self) -> float:
        """The rate of the next optimizer step."""
        return self.optimizer.learning_rate(self._step)

    def change_optimizer(self, optimizer: OptimizerSpec) -> None:
        """Goes on with another schedule, momentum, groups or layers; moments stay, and so do the numbers of the update.

        A change of the schedule or the momentum compiles nothing. Update counts follow from `layers`.

        Args:
            optimizer: of the same kind and numbers as the present one, momentum on or off as it was.

        Raises:
            ConfigError: another kind, other numbers than those above, or a step in which no parameter would learn.
        """
        if not isinstance(optimizer, OptimizerSpec) or optimizer.compiled() != self.optimizer.compiled():
            raise ConfigError(
                f"optimizer must be the present one with another rate, momentum, groups or layers, got {optimizer} for "
                f"{self.optimizer}. For another optimizer prepare the model again."
            )
        old, self._optimizer = self.optimizer, optimizer
        try:
            self.parameter_settings(frozen=True)
        except ConfigError:
            self._optimizer = old
            raise
        if (old.groups, old.layers, old.weight_decay) != (optimizer.groups, optimizer.layers, optimizer.weight_decay):
            self._regroup()

    def freeze(self, match: str = "", *, roles: tuple[Role, ...] = ()) -> None:
        """Leaves parameters as they are from the next step on; see `LayerGroup` for what that means.

        Args:
            match: a regular expression, searched in the canonical name; the empty one matches every name.
            roles: roles that belong; empty: all.

        Raises:
            ConfigError: no parameter is matched, or none would be left to learn.
        """
        group = LayerGroup(match=match, roles=roles, frozen=((self.step, None),))
        if not any(group.matches(name, role) for name, role in self.parameter_roles.items()):
            raise ConfigError(
                f"match must be found in a parameter's name, got match={match!r} with roles={roles}. "
                f"Parameters: {', '.join(self.parameter_shapes)}."
            )
        self.change_optimizer(dataclasses.replace(self.optimizer, layers=(*self.optimizer.layers, group)))

    def unfreeze(self) -> None:
        """Lets every parameter learn from the next step on, at its own rate."""
        layers = tuple(
            dataclasses.replace(group, frozen=past.frozen if (past := group.history(self.step)) else ())
            for group in self.optimizer.layers
        )
        self.change_optimizer(dataclasses.replace(self.optimizer, layers=layers))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Canonical names of the parameters that the next step leaves as they are."""
        settings = self.parameter_settings() if self.optimizer.layers else {}
        return tuple(name for name, each in settings.items() if each.frozen_at(self.step))

    def parameter_settings(self, *, frozen: bool = False) -> dict[str, ParamSettings]:
        """Canonical name -> what the optimizer's groups and layers come to.

        Args:
            frozen: also refuse a next step in which every parameter stands still.

        Raises:
            ConfigError: as above.
        """
        found = {name: self.optimizer.settings(name, role) for name, role in self.parameter_roles.items()}
        if frozen and found and all(each.frozen_at(self.step) for each in found.values()):
            raise ConfigError(
                f"at least one parameter must learn, got all {len(found)} frozen at step {self.step}. "
                "Leave some out of match, such as the head: freeze(r'^(?!head)')."
            )
        return found

    @abc.abstractmethod
    def _regroup(self) -> None:
        """Builds what the engine keeps for `optimizer` anew, with the present moments and the counts of `updates`."""

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

    def hyper(self) -> tuple[float, float, float]:
        """What the next step is given as data: rate, momentum, share of the new weights in the average."""
        average = 0.0 if self._average is None else self._average.weight(self._step)
        return *self.optimizer.hyper(self._step), average

    @property
    @abc.abstractmethod
    def model(self) -> Any:
        """The live native model. On JAX its arrays are valid until the next step, which donates them."""

    @property
    @abc.abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name -> canonical shape, in the engine's order."""

    @property
    @abc.abstractmethod
    def parameter_roles(self) -> dict[str, Role]:
        """Canonical name -> what the parameter is."""

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(shape)) for shape in self.parameter_shapes.values())

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
