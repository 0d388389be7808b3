"""What every rule is made of: how a spec becomes a torch optimizer, and optimizers over foreach operations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from crosstrain.optim import Role
from crosstrain.optim.layers import ParamSettings
from crosstrain_torch.shards import Shards

Group = dict[str, Any]
Kept = dict[str, torch.Tensor]
Tensors = list[torch.Tensor]

# At a momentum of exactly 0 torch leaves its buffer as it was, where the definition has m = g'. A schedule that passes
# through 0 gets this instead: too small to change any sum.
NEARLY_ZERO = torch.finfo(torch.float32).tiny


def _one_kind(spec: Any, role: Role, dimensions: int) -> str:
    return ""


class Traced(NamedTuple):
    """An update for a compiler: numbers that are data, and tensor operations in place that take them.

    Attributes:
        numbers: spec, rate, momentum, and which update of the parameters it is (1 for the first) -> `size` of them.
        update: group, parameters, gradients (which it may overwrite), what is kept, and the numbers, scalar tensors.
        size: how many numbers there are.
    """

    numbers: Callable[[Any, float, float, int], tuple[float, ...]]
    update: Callable[[Group, Tensors, Tensors, list[Kept], Tensors], None]
    size: int


class Rule(NamedTuple):
    """How one kind of spec becomes a torch optimizer.

    Attributes:
        build: spec and parameter groups (with `weight_decay` and `kind` set) -> optimizer. Every rate starts at 0: the
            step sets it.
        start: spec and parameter of a kind -> what the optimizer keeps for it before the first update.
        slots: canonical slot -> the optimizer's key in `optimizer.state[param]`.
        means: key of what the optimizer keeps -> the dimension that it is a mean over, of size 1.
        set_momentum: puts this step's momentum into a group; None where there is none.
        kind: spec, role and dimensions -> which of a spec's updates a parameter follows.
        traced: the update for a compiler, with `weight_decay` and what `build` puts into groups; None for none.
    """

    build: Callable[[Any, list[Group]], torch.optim.Optimizer]
    start: Callable[[Any, torch.Tensor, str], Kept]
    slots: Mapping[str, str]
    set_momentum: Callable[[Group, float], None] | None = None
    kind: Callable[[Any, Role, int], str] = _one_kind
    means: Mapping[str, int] = {}
    traced: Traced | None = None


class Count:
    """How often parameters that may stand still were updated before a step; steps mostly follow each other."""

    def __init__(self, settings: ParamSettings) -> None:
        self._settings, self._step, self._count = settings, 0, 0

    def after(self, step: int) -> int:
        """Updates in the first `step` optimizer steps."""
        if step == self._step + 1:
            self._count += not self._settings.frozen_at(self._step)
        elif step != self._step:
            self._count = len(self._settings.updates(step))
        self._step = step
        return self._count


class Foreach(torch.optim.Optimizer):
    """An optimizer whose update runs over all parameters of a group at once.

    torch wraps `step` into hooks and a range for the profiler, and sorts tensors by device and type: a quarter of a
    small step. `step` is what it says here, and nothing around it.

    Attributes:
        shards: how the whole parameters lie whose parts are updated here.
    """

    shards: Shards

    def __init__(self, groups: list[Group], **defaults: Any) -> None:
        super().__init__(groups, {"lr": 0.0, **defaults})

    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                params = [param for param in group["params"] if param.grad is not None]
                if params:
                    grads, kept = [param.grad for param in params], [self.state[param] for param in params]
                    self.update(group, params, grads, kept)

    step.hooked = True  # type: ignore[attr-defined]

    def update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        """One update of these parameters, in place."""
        raise NotImplementedError


def column(kept: Sequence[Kept], key: str) -> Tensors:
    """One of the things that are kept, for each parameter."""
    return [each[key] for each in kept]


def decay_and_add(group: Group, params: Tensors, directions: Tensors, rate: float) -> None:
    """p = p - rate (direction + weight_decay p), in place of both: decoupled weight decay, with one rounding of p."""
    if group["weight_decay"]:
        torch._foreach_add_(directions, params, alpha=group["weight_decay"])
    torch._foreach_add_(params, directions, alpha=-rate)


def start_step() -> torch.Tensor:
    """The count of updates, float32 as torch's own; on the host."""
    return torch.zeros((), dtype=torch.float32)


def set_beta1(group: Group, momentum: float) -> None:
    """Puts this step's first beta into a group."""
    group["betas"] = (momentum, *group["betas"][1:])
