"""The static comparison: everything about two runs that can be read without computing a step."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from crosstrain.parity.findings import Finding
from crosstrain.parity.side import Live
from crosstrain.schedules import Schedule

_LIMIT = 1e-12
_PROBED_BATCHES = 4


def compare_static(a: Live, b: Live, *, steps: int) -> list[Finding]:
    """Batches, structure, layer settings, optimizer numbers, decay masks and whole schedule tables.

    Args:
        a: the reference.
        b: the other side.
        steps: length of the schedule tables that are compared.

    Returns:
        Findings in the channels `data` and `settings` (and `schedule`, for tables), in causal order.
    """
    return [
        *_data(a, b),
        *_structure(a, b),
        *_layers(a, b),
        *_optimizer(a, b, steps),
        *_decay(a, b),
        *_kept(a, b),
        *_options(a, b),
    ]


def _data(a: Live, b: Live) -> Iterator[Finding]:
    for step in range(_PROBED_BATCHES):
        x, y = a.side.batches(step), b.side.batches(step)
        if x.keys() != y.keys():
            yield _finding(
                "data", f"fields {sorted(set(x) ^ set(y))}", cause="the batches have other fields", step=step
            )
            return
        for name in x:
            same = x[name].shape == y[name].shape and np.array_equal(x[name], y[name])
            if (
                not same
                and x[name].size == y[name].size
                and np.array_equal(np.sort(x[name], None), np.sort(y[name], None))
            ):
                yield _finding("data", name, cause="the same values in another order or layout", step=step)
                return
            if not same:
                yield _finding("data", name, cause="other examples: seed, order or transforms of the data", step=step)
                return


def _structure(a: Live, b: Live) -> Iterator[Finding]:
    x, y = a.shapes, b.shapes
    for name in (name for name in x if name not in y):
        yield _finding("settings", name, cause=f"only the {a.side.backend} model has this parameter")
    for name in (name for name in y if name not in x):
        yield _finding("settings", name, cause=f"only the {b.side.backend} model has this parameter")
    for name in (name for name in x if name in y):
        if x[name] != y[name]:
            yield _finding("settings", name, cause=f"shape {x[name]} against {y[name]}")


def _layers(a: Live, b: Live) -> Iterator[Finding]:
    x, y = a.module_settings(), b.module_settings()
    for path in (path for path in x if path in y):
        if x[path].kind != y[path].kind:
            yield _finding("settings", path, cause=f"{x[path].kind} against {y[path].kind}")
            continue
        for name, value in x[path].values.items():
            other = y[path].values.get(name)
            if not _equal(value, other):
                cause = f"{value} against {other}{meaning(name)}"
                yield _finding("settings", f"{path}.{name}", difference=_relative(value, other), cause=cause)


def meaning(name: str) -> str:
    """What the number of a layer's setting counts, where frameworks count it differently."""
    return " (the share of the new batch)" if name == "momentum" else ""


def _optimizer(a: Live, b: Live, steps: int) -> Iterator[Finding]:
    x, y = a.side.optimizer, b.side.optimizer
    if type(x) is not type(y):
        yield _finding("settings", "optimizer", cause=f"{type(x).__name__} against {type(y).__name__}")
        return
    for each in fields(x):
        value, other = getattr(x, each.name), getattr(y, each.name)
        if isinstance(value, Schedule) and isinstance(other, Schedule):
            yield from _schedule(each.name, value, other, steps)
        elif not _equal(value, other):
            yield _finding(
                "settings",
                f"optimizer.{each.name}",
                difference=_relative(value, other),
                cause=f"{value} against {other}",
            )


def _schedule(name: str, a: Schedule, b: Schedule, steps: int) -> Iterator[Finding]:
    x, y = a.table(steps), b.table(steps)
    scale = max(x.max(), y.max())
    difference = np.abs(x - y) / scale if scale else np.zeros(steps)
    if difference.max() > _LIMIT:
        first = int(np.argmax(difference > _LIMIT))
        cause = f"{x[first]:.6g} against {y[first]:.6g}"
        moved = partial(np.allclose, rtol=1e-9, atol=_LIMIT * scale)  # rates of 1e-8 and less are rates, too
        if steps > 1 and (moved(x[1:], y[:-1]) or moved(x[:-1], y[1:])):
            cause = "the same table, one step apart"
        yield _finding("schedule", name, difference=float(difference.max()), cause=cause, step=first)


def _decay(a: Live, b: Live) -> Iterator[Finding]:
    x, y = _settings(a), _settings(b)
    for name in (name for name in x if name in y):
        if x[name] != y[name]:
            cause = f"rate scale and weight decay {tuple(x[name])} against {tuple(y[name])}"
            yield _finding("settings", f"optimizer for {name}", cause=cause)
            return


def _settings(live: Live) -> Mapping[str, Any]:
    own = {name: live.side.optimizer.settings(name, role) for name, role in live.state.parameter_roles.items()}
    return live.names.first(own)


def kept_moments(live: Live) -> dict[str, tuple[str, ...]]:
    """Parameter -> the moments that the optimizer keeps for it."""
    moments = live.snapshot().moments
    return {name: tuple(slot for slot, kept in moments.items() if name in kept) for name in live.shapes}


def _kept(a: Live, b: Live) -> Iterator[Finding]:
    x, y = kept_moments(a), kept_moments(b)
    roles, others = a.roles, b.roles
    for name in (name for name in x if name in y and x[name] != y[name]):
        cause = f"keeps {' and '.join(x[name]) or 'nothing'} against {' and '.join(y[name]) or 'nothing'}"
        role = f": it is taken for a {roles[name]} against a {others[name]}" if roles[name] != others[name] else ""
        yield _finding("settings", f"optimizer for {name}", cause=cause + role)
    if a.side.average != b.side.average:
        yield _finding("settings", "average", cause=f"{a.side.average} against {b.side.average}")


def _options(a: Live, b: Live) -> Iterator[Finding]:
    for name in ("accumulate_steps", "clip_norm", "clip_value"):
        value, other = getattr(a.side.options, name), getattr(b.side.options, name)
        if value != other:
            yield _finding("settings", name, cause=f"{value} against {other}")


def _equal(a: Any, b: Any) -> bool:
    if is_dataclass(a) or isinstance(a, tuple):
        return a == b
    return a == b or _relative(a, b) <= _LIMIT


def _relative(a: Any, b: Any) -> float:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    return abs(a - b) / max(abs(a), abs(b)) if numbers and (a or b) else float("inf")


def _finding(
    channel: Any, where: str, *, difference: float = float("inf"), cause: str = "", step: int | None = None
) -> Finding:
    return Finding(channel=channel, where=where, difference=difference, limit=_LIMIT, step=step, cause=cause)
