"""Dropout whose masks a framework draws: it is switched off before a comparison, and compared call by call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.parity.findings import Finding
from crosstrain.parity.names import Names
from crosstrain.parity.onestep import FLOAT64
from crosstrain.parity.side import Live, Side
from crosstrain.parity.verdict import exchangeable
from crosstrain.probe import NATIVE, ModuleSettings, Setting

_SAME_VALUES = 1e-9
"""Of the largest value, in float64; other values are farther apart, rounding is not."""


class Quiet(NamedTuple):
    """Two sides without native dropout.

    Attributes:
        a: the reference.
        b: the other side.
        note: what was switched off, in a sentence; empty where there was none.
        layers: what was switched off on each side, by its own module path.
    """

    a: Side
    b: Side
    note: str
    layers: tuple[Mapping[str, ModuleSettings], Mapping[str, ModuleSettings]]


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of a layer that drops values.

    Attributes:
        path: the layer, in shared names where its owner has one; a later call has `#1`, `#2`, ... after it.
        values: `rate`, and what it drops as one (`drops`).
        dropped: what it is given, with dropout switched off; None where that is not seen, as inside attention.
        attention: whether the layer is attention, and drops its weights.
    """

    path: str
    values: Mapping[str, Setting]
    dropped: np.ndarray | None = None
    attention: bool = False


def without_native_dropout(a: Side, b: Side) -> Quiet:
    """Switches off dropout layers whose masks the framework draws; crosstrain's own stay, their masks are equal."""
    found = (_native_layers(a), _native_layers(b))
    if not any(found):
        return Quiet(a, b, "", found)
    names = "; ".join(f"{', '.join(each)} ({side.backend})" for side, each in zip((a, b), found, strict=True) if each)
    note = f"dropout was switched off in both models, since each framework draws masks of its own: {names}"
    return Quiet(_without_rates(a, list(found[0])), _without_rates(b, list(found[1])), note, found)


def dropout_findings(a: Live, b: Live, layers: Sequence[Mapping[str, ModuleSettings]]) -> tuple[Finding, ...]:
    """Differences of the dropout that was switched off, which nothing else can find any more.

    Args:
        a: the reference, ready and without dropout.
        b: the other side, likewise.
        layers: see `Quiet`.
    """
    if not any(layers):
        return ()
    start, batch = a.snapshot(), a.side.batches(0)
    shared = exchangeable(a, b, start)
    if shared:
        b.load(start)
    x, y = a.probe(batch), b.probe(batch)
    # Values say where a layer stands only as long as both models compute the same ones.
    shared = shared and abs(x.loss - y.loss) <= FLOAT64.loss * max(abs(x.loss), abs(y.loss))
    calls = [_calls(live, probe, each) for live, probe, each in zip((a, b), (x, y), layers, strict=True)]
    return compare_calls(*calls, backends=(a.side.backend, b.side.backend), same_values=shared)


def compare_calls(
    a: Sequence[Call], b: Sequence[Call], *, backends: tuple[str, str], same_values: bool
) -> tuple[Finding, ...]:
    """Findings of the calls that have no equal on the other side.

    Args:
        a: the reference's calls, in the order of execution.
        b: the other side's.
        backends: of both.
        same_values: whether both models compute the same values, so that what is dropped says where a call stands.
    """
    by_value: Callable[[Call, Call], bool] = lambda x, y: x.values == y.values and _place(x, y) is True  # noqa: E731
    by_path: Callable[[Call, Call], bool] = lambda x, y: x.path == y.path  # noqa: E731
    in_order: Callable[[Call, Call], bool] = lambda x, y: True  # noqa: E731
    left, others, found = list(a), list(b), []
    for belongs in (*((by_value,) if same_values else ()), by_path, in_order):
        for call in list(left):
            partner = next((other for other in others if belongs(call, other)), None)
            if partner is not None:
                left.remove(call)
                others.remove(partner)
                cause = _difference(call, partner, same_values)
                found += [_finding(call.path, cause)] if cause else []
    found += [_finding(each.path, f"{_words(each)} against none: {_lacks(backends[1])}") for each in left]
    found += [_finding(each.path, f"none against {_words(each)}: {_lacks(backends[0])}") for each in others]
    return tuple(found)


def _calls(live: Live, probe: Any, layers: Mapping[str, ModuleSettings]) -> list[Call]:
    """Calls in the order of execution; those inside a loop, whose place an engine may not know, come last."""
    known = {live.names.module(path): (path, settings) for path, settings in layers.items()}
    order = [event.module for event in probe.order if event.kind == "input"]
    calls = []
    for name in dict.fromkeys([*order, *probe.inputs]):
        module, mark, count = name.partition("#")
        if module in known:
            path, settings = known[module]
            values = {each: settings.values[each] for each in ("rate", "drops")}
            # Attention is given queries, and drops weights.
            given = probe.inputs.get(name, ()) if settings.kind == "dropout" else ()
            dropped = next(iter(given), None)
            calls.append(
                Call(
                    _shared_path(live.names, path, settings) + mark + count,
                    values,
                    dropped,
                    settings.kind == "attention",
                )
            )
    return calls


def _shared_path(names: Names, path: str, settings: ModuleSettings) -> str:
    """A dropout layer has no parameters by which it was matched: it belongs to the module that holds it."""
    owner, _, last = path.rpartition(".")
    if settings.kind != "dropout":
        return names.module(path)
    return f"{names.module(owner)}.{last}" if owner else last


def _difference(a: Call, b: Call, same_values: bool) -> str:
    if a.values != b.values:
        renamed = "" if a.path == b.path else f" in {b.path}"
        return f"{_words(a)} against {_words(b)}{renamed}"
    if same_values and _place(a, b) is False:
        return f"another place in the model: {_words(a)}, of other values"
    return ""


def _place(a: Call, b: Call) -> bool | None:
    """Whether two calls drop the same values, whatever their layout; None where that is not seen.

    Dropout may change places with a positive factor and with ReLU: neither makes it another algorithm.
    """
    for attention, seen in ((a, b.dropped), (b, a.dropped)):
        if attention.attention and seen is not None and not _sums_to_one(seen):
            return False
    if a.dropped is None or b.dropped is None:
        return None
    if a.dropped.size != b.dropped.size:
        return False
    x, y = np.sort(a.dropped, axis=None), np.sort(b.dropped, axis=None)
    return _proportional(x, y) or _proportional(np.maximum(x, 0.0), np.maximum(y, 0.0))


def _sums_to_one(x: np.ndarray) -> bool:
    """Whether these may be the weights of attention, whichever axis the keys are."""
    sums = (np.abs(x.sum(axis) - 1.0).max(initial=0.0) for axis in range(x.ndim))
    return bool(x.min(initial=0.0) >= 0.0) and any(each <= _SAME_VALUES for each in sums)


def _proportional(x: np.ndarray, y: np.ndarray) -> bool:
    largest, other = (float(np.abs(each).max(initial=0.0)) for each in (x, y))
    return largest * other > 0 and bool(np.abs(x / largest - y / other).max() <= _SAME_VALUES)


def _native_layers(side: Side) -> dict[str, ModuleSettings]:
    accelerator = Accelerator(side.backend)
    settings = accelerator.module_settings(side.model(accelerator))
    return {path: each for path, each in settings.items() if each.values.get("masks") == NATIVE}


def _without_rates(side: Side, paths: list[str]) -> Side:
    def model(accelerator: Accelerator) -> Any:
        made = side.model(accelerator)
        for path in paths:
            accelerator.change_setting(made, path, "rate", 0.0)
        return made

    return replace(side, model=model)


def _words(call: Call) -> str:
    return f"rate {call.values['rate']:g} of {call.values['drops']}"


def _lacks(backend: str) -> str:
    return f"the {backend} model has no such layer, or does not call it"


def _finding(path: str, cause: str) -> Finding:
    return Finding(channel="settings", where=f"dropout {path}", difference=float("inf"), limit=0.0, cause=cause)
