"""What every optimizer spec has: a rate, weight decay, and groups of parameters that learn differently."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from crosstrain.errors import ConfigError
from crosstrain.optim.layers import LayerGroup, ParamSettings, Span, matches, require_pattern
from crosstrain.optim.roles import Role, require
from crosstrain.schedules import Schedule


class Hyper(NamedTuple):
    """The numbers that reach a compiled step as data, so that cycling them retraces nothing.

    Attributes:
        rate: the learning rate.
        momentum: SGD's momentum, or the first beta of the Adam family; 0 where the optimizer has none.
    """

    rate: float
    momentum: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamGroup:
    """Parameters that learn differently. A parameter belongs to the first group that matches it.

    Attributes:
        match: a regular expression, searched in the canonical name; the empty one matches every name.
        roles: roles that belong; empty: all. `norm` is every parameter of a norm layer, `bias` any other bias.
        rate_scale: multiplies the learning rate. At 0 moments still move; `LayerGroup` freezes.
        weight_decay: replaces the spec's; None keeps it.

    Raises:
        ConfigError: an invalid expression, an unknown role, or a negative number.
    """

    match: str = ""
    roles: tuple[Role, ...] = ()
    rate_scale: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        require("rate_scale", self.rate_scale, 0.0)
        require("weight_decay", self.weight_decay or 0.0, 0.0)
        require_pattern(self.match, self.roles)

    def matches(self, name: str, role: str) -> bool:
        """Whether a parameter belongs to this group."""
        return matches(self.match, self.roles, name, role)


def undecayed(*roles: Role) -> ParamGroup:
    """The group that takes weight decay off parameters of these roles; by default biases and norms."""
    return ParamGroup(roles=roles or ("bias", "norm"), weight_decay=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """What every optimizer has.

    Attributes:
        learning_rate: the schedule of the rate, counted in optimizer steps.
        weight_decay: coefficient, >= 0; coupled or decoupled as the subclass says.
        groups: parameters that learn differently.
        layers: rates of layers, and the steps at which they stand still; beside `groups`.
    """

    learning_rate: Schedule
    weight_decay: float = 0.0
    groups: tuple[ParamGroup, ...] = ()
    layers: tuple[LayerGroup, ...] = ()

    def __post_init__(self) -> None:
        require("weight_decay", self.weight_decay, 0.0)
        if isinstance(self.groups, ParamGroup):
            raise ConfigError(f"groups must be a tuple of ParamGroup, got groups={self.groups}. Write groups=(...,).")
        self.check()

    def check(self) -> None:
        """Refuses numbers out of range; subclasses extend it.

        Raises:
            ConfigError: names the number.
        """

    def momentum_at(self, step: int) -> float:
        """The momentum (or first beta) of a 0-based step; 0 where there is none."""
        return 0.0

    @property
    def momentum_value(self) -> "Schedule | float | None":
        """What was given as momentum or first beta; None where the optimizer has none."""
        values = self._values()
        found = values["betas"][0] if "betas" in values else values.get("momentum", 0.0)
        return None if found == 0.0 else found

    def with_momentum(self, momentum: Schedule | float) -> "OptimizerSpec":
        """The same optimizer with another momentum, or first beta.

        Raises:
            ConfigError: it has none, or a number outside [0, 1).
        """
        if self.momentum_value is None:
            raise ConfigError(
                f"momentum can only be cycled where the optimizer has one, got {type(self).__name__} without. "
                "Use for example ct.sgd(rate, momentum=0.9), or pass momentum=None."
            )
        betas = self._values().get("betas")
        new = {"momentum": momentum} if betas is None else {"betas": (momentum, betas[1])}
        return replace(self, **new)

    def compiled(self) -> tuple[Any, ...]:
        """What an engine compiles of the numbers: all but what reaches the step as data, and what belongs to groups."""
        left_out = ("learning_rate", "weight_decay", "groups", "layers")
        values = {name: value for name, value in self._values().items() if name not in left_out}
        if "betas" in values:
            values["betas"] = values["betas"][1]
        if "momentum" in values:
            values["momentum"] = values["momentum"] != 0.0
        return type(self), *values.items()

    def _values(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def carried(self, steps: Sequence[int]) -> dict[str, float]:
        """Numbers that the update carries from step to step, after the updates of these 0-based optimizer steps.

        Engines keep them beside the moments; a snapshot does not, and `load` takes them from here.
        """
        return {}

    def hyper(self, step: int) -> Hyper:
        """What the 0-based optimizer step `step` is given as data.

        Raises:
            ConfigError: the momentum's schedule leaves [0, 1) at this step. A schedule has no end, so its later values
                are looked at when they are used.
        """
        momentum = self.momentum_at(step)
        if not 0.0 <= momentum < 1.0:
            raise ConfigError(
                f"momentum must be in [0, 1) at every step, got {momentum} at step {step}. "
                "Change the schedule given as momentum or betas[0]."
            )
        return Hyper(self.learning_rate(step), momentum)

    def settings(self, name: str, role: str) -> ParamSettings:
        """What holds for the parameter with this canonical name and role."""
        group = next((group for group in self.groups if group.matches(name, role)), ParamGroup())
        decay = self.weight_decay if group.weight_decay is None else group.weight_decay
        scale = group.rate_scale
        frozen: list[Span] = []
        for layers in self.layers:
            if layers.matches(name, role):
                scale *= layers.rate_scale
                frozen += layers.frozen
        return ParamSettings(scale, decay, tuple(sorted(frozen, key=lambda span: span[0])))


def value_at(value: "Schedule | float", step: int) -> float:
    """A number as it is, a schedule at a step."""
    return value(step) if isinstance(value, Schedule) else value


def require_momentum(name: str, value: "Schedule | float") -> None:
    """Refuses a momentum (or beta) outside [0, 1); a schedule here at its first step, later in `hyper`.

    Raises:
        ConfigError: names the number.
    """
    require(name, value_at(value, 0), 0.0, 1.0)
