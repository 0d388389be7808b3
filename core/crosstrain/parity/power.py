"""What a comparison could not have detected: known bugs are planted in one side; those that stay unseen are named."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.parity.envelope import compare_low_precision_open
from crosstrain.parity.side import Live, Side
from crosstrain.parity.verdict import compare_open
from crosstrain.schedules import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """One planted bug and whether it was seen.

    Attributes:
        name: what was planted.
        precision: in which comparison.
        seen: whether that comparison flagged it.
    """

    name: str
    precision: str
    seen: bool


def detection(a: Side, *, precision: str, total_steps: int, seeds: int = 8) -> list[Planted]:
    """Plants the bugs that apply to a side, one at a time, and compares the side with its changed self.

    Args:
        a: the side.
        precision: `fp64` (static comparison left out, 20 free steps), `fp32` or `bf16` (resynchronised steps).
        total_steps: as for `crosstrain.parity.compare`.
        seeds: nudges per envelope.
    """
    reference = a.open(precision)
    start = reference.snapshot()

    def is_seen(changed: Live) -> bool:
        if precision == "fp64":
            verdict = compare_open(reference, changed, total_steps=total_steps, free_steps=20, start=start)
            return any(finding not in verdict.static for finding in verdict.findings)
        reference.load(start)
        low = compare_low_precision_open(reference, changed, precision=precision, total_steps=total_steps, seeds=seeds)
        return bool(low.findings)

    bugs = planted_bugs(a, total_steps).items()
    return [Planted(name=name, precision=precision, seen=is_seen(side.open(precision))) for name, side in bugs]


def planted_bugs(side: Side, total_steps: int) -> dict[str, Side]:
    """The bugs that apply to a side in a run of so many steps: optimizer numbers, the schedule, and layer settings."""
    bugs: dict[str, Side] = {}
    spec = side.optimizer
    for each in dataclasses.fields(spec):
        value = getattr(spec, each.name)
        if each.name in _CHANGES and value and not isinstance(value, Schedule):
            changed = _CHANGES[each.name](value)
            bug = f"optimizer {each.name} {_number(value)} -> {_number(changed)}"
            bugs[bug] = replace(side, optimizer=dataclasses.replace(spec, **{each.name: changed}))
    late = _Late(inner=spec.learning_rate)
    # A constant rate is never late.
    if not np.array_equal(late.table(total_steps), spec.learning_rate.table(total_steps)):
        bugs["schedule one step late"] = replace(side, optimizer=dataclasses.replace(spec, learning_rate=late))
    return bugs | _layer_bugs(side)


_CHANGES: dict[str, Callable[[Any], Any]] = {
    "eps": lambda value: (*value[:-1], value[-1] * 10) if isinstance(value, tuple) else value * 10,
    "weight_decay": lambda value: value * 1.1,
    "momentum": lambda value: value - 0.01,
    "nesterov": lambda value: not value,
    "betas": lambda value: (value[0], value[1] - 0.01),
    "alpha": lambda value: value - 0.01,
    "momentum_decay": lambda value: value * 2,
    "clip_threshold": lambda value: value * 1.1,
    "fallback_scale": lambda value: value * 1.1,
}


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_number, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Late(Schedule):
    inner: Schedule

    def rate(self, step: int) -> float:
        return self.inner(max(0, step - 1))


def _layer_bugs(side: Side) -> dict[str, Side]:
    live = side.open("fp32")
    bugs: dict[str, Side] = {}
    for path, settings in live.accelerator.module_settings(live.state.model).items():
        eps = settings.values.get("eps")
        if isinstance(eps, float) and not any(name.startswith(settings.kind) for name in bugs):
            bugs[f"{settings.kind} eps {eps:g} -> {eps / 10:g} in {path}"] = _with_eps(side, path, eps / 10)
    return bugs


def _with_eps(side: Side, path: str, eps: float) -> Side:
    def model(accelerator: Accelerator) -> Any:
        made = side.model(accelerator)
        accelerator.change_setting(made, path, "eps", eps)
        return made

    return replace(side, model=model)
