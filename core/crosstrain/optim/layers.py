"""Layers that learn at rates of their own, or stand still for a while: data of the optimizer spec, as schedules are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from crosstrain.errors import ConfigError
from crosstrain.optim.roles import Role, require

Span = tuple[int, int | None]
"""Optimizer steps from the first up to, not with, the second; None: without end."""


def covers(spans: tuple[Span, ...], step: int) -> bool:
    """Whether a step lies in one of the spans."""
    return any(start <= step and (end is None or step < end) for start, end in spans)


class ParamSettings(NamedTuple):
    """What one parameter's groups come to.

    Attributes:
        rate_scale: multiplies the rate.
        weight_decay: the coefficient that holds for it.
        frozen: optimizer steps that leave it as it is.
    """

    rate_scale: float
    weight_decay: float
    frozen: tuple[Span, ...] = ()

    def frozen_at(self, step: int) -> bool:
        """Whether the 0-based optimizer step `step` leaves the parameter as it is."""
        return covers(self.frozen, step)

    def updates(self, step: int) -> Sequence[int]:
        """Those of the first `step` optimizer steps that updated the parameter."""
        return [each for each in range(step) if not self.frozen_at(each)] if self.frozen else range(step)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """Parameters of some layers: how fast they learn, and when they stand still.

    All groups that match a parameter hold: their scales multiply, and it stands still where any of them says so. In a
    step that finds a parameter frozen nothing of it changes: no update, no weight decay, no moment, and its update
    count t, which stays behind the optimizer's step; its gradient is not computed and does not count in the global
    norm. Which steps these are is data of the run, as the schedule is, so a resumed run needs nothing else.

    Attributes:
        match: a regular expression, searched in the canonical name; the empty one matches every name.
        roles: roles that belong; empty: all.
        rate_scale: multiplies the learning rate, beside that of a `ParamGroup`.
        frozen: spans of 0-based optimizer steps, (start, end) or (start, None).

    Raises:
        ConfigError: an invalid expression, an unknown role, a negative scale, or a span that ends before it starts.
    """

    match: str = ""
    roles: tuple[Role, ...] = ()
    rate_scale: float = 1.0
    frozen: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        require("rate_scale", self.rate_scale, 0.0)
        require_pattern(self.match, self.roles)
        for start, end in self.frozen:
            if start < 0 or (end is not None and end < start):
                raise ConfigError(f"frozen must be spans (start, end) with 0 <= start <= end, got ({start}, {end}).")

    def matches(self, name: str, role: str) -> bool:
        """Whether a parameter belongs to this group."""
        return matches(self.match, self.roles, name, role)

    def frozen_at(self, step: int) -> bool:
        """Whether the 0-based optimizer step `step` leaves its parameters as they are."""
        return covers(self.frozen, step)

    def history(self, step: int) -> "LayerGroup | None":
        """Only what it says of steps before `step`, which update counts rest on; None where that is nothing."""
        past = tuple((start, step if end is None else min(end, step)) for start, end in self.frozen if start < step)
        return LayerGroup(match=self.match, roles=self.roles, frozen=past) if past else None


def matches(pattern: str, roles: tuple[Role, ...], name: str, role: str) -> bool:
    """Whether a parameter has one of the roles, or there are none, and the pattern is found in its name."""
    return (not roles or role in roles) and re.search(pattern, name) is not None


def require_pattern(pattern: str, roles: tuple[Role, ...]) -> None:
    """Refuses an invalid expression and an unknown role.

    Raises:
        ConfigError: names it.
    """
    unknown = [role for role in roles if role not in get_args(Role)]
    if unknown:
        raise ConfigError(f"roles must be among {', '.join(get_args(Role))}, got roles={roles}.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"match must be a regular expression, got match={pattern!r}: {error}.") from error
