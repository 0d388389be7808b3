"""What every optimizer spec has: a rate, weight decay, and groups of parameters that learn differently."""

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from crosstrain.errors import ConfigError
from crosstrain.schedules import Schedule

Role = Literal["weight", "bias", "norm", "embedding"]


class Hyper(NamedTuple):
    """The numbers that reach a compiled step as data, so that cycling them retraces nothing.

    Attributes:
        rate: the learning rate.
        momentum: SGD's momentum, or the first beta of the Adam family; 0 where the optimizer has none.
    """

    rate: float
    momentum: float


class ParamSettings(NamedTuple):
    """What one parameter's groups come to.

    Attributes:
        rate_scale: multiplies the rate.
        weight_decay: the coefficient that holds for it.
    """

    rate_scale: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamGroup:
    """Parameters that learn differently. A parameter belongs to the first group that matches it.

    Attributes:
        match: a regular expression, searched in the canonical name; the empty one matches every name.
        roles: roles that belong; empty: all. `norm` is every parameter of a norm layer, `bias` any other bias.
        rate_scale: multiplies the learning rate (0 freezes).
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
        unknown = [role for role in self.roles if role not in get_args(Role)]
        if unknown:
            raise ConfigError(f"roles must be among {', '.join(get_args(Role))}, got roles={self.roles}.")
        try:
            re.compile(self.match)
        except re.error as error:
            raise ConfigError(f"match must be a regular expression, got match={self.match!r}: {error}.") from error

    def matches(self, name: str, role: str) -> bool:
        """Whether a parameter belongs to this group."""
        return (not self.roles or role in self.roles) and re.search(self.match, name) is not None


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
    """

    learning_rate: Schedule
    weight_decay: float = 0.0
    groups: tuple[ParamGroup, ...] = ()

    def __post_init__(self) -> None:
        require("weight_decay", self.weight_decay, 0.0)
        self.check()

    def check(self) -> None:
        """Refuses numbers out of range; subclasses extend it.

        Raises:
            ConfigError: names the number.
        """

    def momentum_at(self, step: int) -> float:
        """The momentum (or first beta) of a 0-based step; 0 where there is none."""
        return 0.0

    def carried(self, step: int) -> dict[str, float]:
        """Numbers that the update carries from step to step and that follow from their count, after `step` updates.

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
        return ParamSettings(group.rate_scale, decay)


def value_at(value: "Schedule | float", step: int) -> float:
    """A number as it is, a schedule at a step."""
    return value(step) if isinstance(value, Schedule) else value


def require(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuses a number outside [low, high).

    Raises:
        ConfigError: names the number and its range.
    """
    if not low <= value < high:
        bound = f"in [{low}, {high})" if high < math.inf else f"at least {low}"
        raise ConfigError(f"{name} must be {bound}, got {name}={value}.")


def require_momentum(name: str, value: "Schedule | float") -> None:
    """Refuses a momentum (or beta) outside [0, 1); a schedule here at its first step, later in `hyper`.

    Raises:
        ConfigError: names the number.
    """
    require(name, value_at(value, 0), 0.0, 1.0)
