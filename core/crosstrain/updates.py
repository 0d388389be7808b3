"""How the parameters of a state are updated: optimizer spec, schedule, what stands still. A base of `TrainState`."""

import abc
import dataclasses

from crosstrain.errors import ConfigError
from crosstrain.optim import Averaging, LayerGroup, OptimizerSpec, ParamSettings, Role


class Updates(abc.ABC):
    """A count of optimizer steps, and the spec that says what the next one does."""

    def __init__(self, optimizer: OptimizerSpec | None, average: Averaging | None) -> None:
        self._optimizer, self._average = optimizer, average
        self._step = 0
        self._settings: tuple[OptimizerSpec, dict[str, ParamSettings]] | None = None

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
    def average(self) -> Averaging | None:
        """The average of the weights that every step updates, if any."""
        return self._average

    @property
    def learning_rate(self) -> float:
        """The rate of the next optimizer step."""
        return self.optimizer.learning_rate(self._step)

    def hyper(self, step: int | None = None) -> tuple[float, float, float]:
        """What a step is given as data: rate, momentum, share of the new weights in the average.

        Args:
            step: how many steps come before it; None for the next one.
        """
        step = self._step if step is None else step
        average = 0.0 if self._average is None else self._average.weight(step)
        return *self.optimizer.hyper(step), average

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
        if self._optimizer is None or not any(group.frozen_at(self._step) for group in self._optimizer.layers):
            return ()
        return tuple(name for name, each in self.parameter_settings().items() if each.frozen_at(self._step))

    def parameter_settings(self, *, frozen: bool = False) -> dict[str, ParamSettings]:
        """Canonical name -> what the optimizer's groups and layers come to.

        Args:
            frozen: also refuse a next step in which every parameter stands still.

        Raises:
            ConfigError: as above.
        """
        if self._settings is None or self._settings[0] is not self.optimizer:
            found = {name: self.optimizer.settings(name, role) for name, role in self.parameter_roles.items()}
            self._settings = self.optimizer, found
        found = self._settings[1]
        if frozen and found and all(each.frozen_at(self.step) for each in found.values()):
            raise ConfigError(
                f"at least one parameter must learn, got all {len(found)} frozen at step {self.step}. "
                "Leave some out of match, such as the head: freeze(r'^(?!head)')."
            )
        return found

    @abc.abstractmethod
    def _regroup(self) -> None:
        """Builds what the engine keeps for `optimizer` anew, with the present moments and the counts of `updates`."""

    @property
    @abc.abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name -> canonical shape, in the engine's order."""

    @property
    @abc.abstractmethod
    def parameter_roles(self) -> dict[str, Role]:
        """Canonical name -> what the parameter is."""
