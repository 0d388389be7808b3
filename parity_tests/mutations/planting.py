"""What a planted difference is, and the ways of planting one in a spec, a model, a loss or the data."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.parity.side import Live, Side
from crosstrain.schedules import Schedule

from . import patches as p
from .bases import BASES


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One planted bug.

    Attributes:
        name: what was planted.
        base: the pair it is planted in.
        change: clean torch side -> changed one.
        live: changes the open side, for bugs in the optimizer or the step.
        channel: where the report has to say that the runs part first.
        where: a part of the place that it has to name.
    """

    name: str
    base: str
    channel: str
    where: str
    change: Callable[[Side], Side] = lambda side: side
    live: Callable[[Live], None] = lambda live: None

    def open(self) -> Live:
        live = self.change(BASES[self.base].side("torch")).open("fp64")
        self.live(live)
        return live


def config(**changes: Any) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        kind, old = side.model.args
        return replace(side, model=functools.partial(ct.models.build, kind, dataclasses.replace(old, **changes)))

    return change


def spec(**changes: Any) -> Callable[[Side], Side]:
    return lambda side: replace(side, optimizer=dataclasses.replace(side.optimizer, **changes))


def patch(*changes: p.Patch) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        def model(accelerator: ct.Accelerator) -> Any:
            made = side.model(accelerator)
            for each in changes:
                each(made)
            return made

        return replace(side, model=model)

    return change


def forward(path: str, function: Callable[..., Any]) -> Callable[[Side], Side]:
    return patch(p.forward(path, function))


def loss(function: Callable[..., Any]) -> Callable[[Side], Side]:
    return lambda side: replace(side, loss_fn=function)


def options(**changes: Any) -> Callable[[Side], Side]:
    return lambda side: replace(side, options=dataclasses.replace(side.options, **changes))


def data(function: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]) -> Callable[[Side], Side]:
    return lambda side: replace(side, batches=lambda step: function(side.batches(step), step))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shifted(Schedule):
    """Another schedule, `by` steps late; from step `since` on."""

    inner: Schedule
    by: int = 1
    since: int = 0

    def rate(self, step: int) -> float:
        return self.inner(max(0, step - self.by) if step >= self.since else step)


def shifted(by: int = 1, since: int = 0) -> Callable[[Side], Side]:
    def change(side: Side) -> Side:
        rate = Shifted(inner=side.optimizer.learning_rate, by=by, since=since)
        return replace(side, optimizer=dataclasses.replace(side.optimizer, learning_rate=rate))

    return change
