"""Random numbers that a model draws by itself: two frameworks draw others, so they have to go before a comparison."""

from dataclasses import replace
from typing import Any, NamedTuple

from crosstrain.accelerator import Accelerator
from crosstrain.parity.findings import Finding
from crosstrain.parity.side import Live, Side
from crosstrain.probe import NATIVE

_REPEATS = 1e-12


class Quiet(NamedTuple):
    """Two sides without native dropout.

    Attributes:
        a: the reference.
        b: the other side.
        note: what was switched off, in a sentence; empty where there was none.
        findings: rates that differ, which nothing else can find any more.
    """

    a: Side
    b: Side
    note: str
    findings: tuple[Finding, ...]


def without_native_dropout(a: Side, b: Side) -> Quiet:
    """Switches off dropout layers whose masks the framework draws; crosstrain's own stay, their masks are equal."""
    found = [_native_rates(side) for side in (a, b)]
    if not any(found):
        return Quiet(a, b, "", ())
    names = "; ".join(
        f"{', '.join(rates)} ({side.backend})" for side, rates in zip((a, b), found, strict=True) if rates
    )
    note = f"dropout was switched off in both models, since each framework draws masks of its own: {names}"
    rates, others = (sorted(set(each.values())) for each in found)
    differs = Finding(
        channel="settings",
        where="dropout rates",
        difference=float("inf"),
        limit=0.0,
        cause=f"{_listed(rates)} against {_listed(others)}",
    )
    a, b = (_without_rates(side, list(each)) for side, each in zip((a, b), found, strict=True))
    return Quiet(a, b, note, () if rates == others else (differs,))


def own_randomness(live: Live) -> str:
    """The sentence that says that a model draws random numbers of its own, or nothing.

    The same batch and state are run before and after a step: functional dropout gives another loss on torch each time,
    and on JAX once the step has moved the model's random state on.
    """
    start, batch = live.snapshot(), live.side.batches(0)
    before = live.probe(batch).loss
    live.step(batch)
    live.load(start)
    after = live.probe(batch).loss
    if abs(before - after) <= _REPEATS * max(abs(before), abs(after)):
        return ""
    return (
        f"the {live.side.backend} model draws random numbers of its own: the same batch and weights give the losses "
        f"{before:.6g} and {after:.6g}, so there is nothing to compare. Switch them off in the port (a dropout rate of "
        "0), or use crosstrain's Dropout layers, whose masks are the same on both engines."
    )


def _native_rates(side: Side) -> dict[str, float]:
    accelerator = Accelerator(side.backend)
    settings = accelerator.module_settings(side.model(accelerator))
    return {
        path: float(str(each.values["rate"])) for path, each in settings.items() if each.values.get("masks") == NATIVE
    }


def _without_rates(side: Side, paths: list[str]) -> Side:
    def model(accelerator: Accelerator) -> Any:
        made = side.model(accelerator)
        for path in paths:
            accelerator.change_setting(made, path, "rate", 0.0)
        return made

    return replace(side, model=model)


def _listed(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates) or "none"
