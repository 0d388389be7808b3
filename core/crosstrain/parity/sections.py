"""A report on a port as tables and sentences, which the terminal and the page both show."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from crosstrain.parity.envelope import UPDATE, LowPrecision
from crosstrain.parity.examine import LOW, Report
from crosstrain.parity.findings import Finding
from crosstrain.parity.fixes import Fix
from crosstrain.parity.matching import Matching
from crosstrain.parity.onestep import FLOAT64
from crosstrain.parity.power import Planted
from crosstrain.parity.verdict import Verdict

SHOWN = 12


class TableSection(NamedTuple):
    """A table; every cell is text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


class Sentence(NamedTuple):
    """A sentence; `tone` says whether it is good or bad news."""

    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


Section = TableSection | Sentence


def headline(report: Report) -> Sentence:
    """The answer in one sentence."""
    verdict = report.verdict
    if verdict is None:
        why = report.matching.problem("torch", "jax") or "see below"
        return Sentence(f"no verdict: the models could not be compared; {why}", "bad")
    a, b = verdict.backends
    if not verdict.same_algorithm:
        return Sentence(f"not the same algorithm: {a} and {b} part first in {verdict.first}", "bad")
    sentence = (
        f"same algorithm: {a} and {b} agree in float64 at {len(verdict.checks)} resynchronised steps and over "
        f"{len(verdict.loss[0])} free steps (largest loss difference {verdict.free_difference:.1e} relative)"
    )
    for low in report.low:
        if low.findings:
            worst = max(low.findings, key=lambda finding: finding.difference)
            return Sentence(
                f"{sentence}, but {low.precision} rounds otherwise: {worst.where} is {worst.difference:.1f} times as "
                "far apart as rounding explains. Look for a cast, or for the precision of a product",
                "bad",
            )
    return Sentence(sentence, "good")


def results(report: Report) -> list[Section]:
    """What was found, what closes the gap, what low precision shows, and what was left out."""
    found: list[Section] = []
    if report.verdict is not None and report.verdict.findings:
        found.append(_differences(report.verdict.findings))
    if report.fixes:
        found.append(TableSection("fixes", _FIX_HEADS, [_fix_row(fix) for fix in report.fixes]))
    if report.fixes and report.fixed is not None:
        found.append(Sentence(_fixed(report.fixes, report.fixed)))
    if report.low:
        found += [_low_checks(report.low), _free_runs(report.low), *_warnings(report.low)]
    if report.planted:
        found += [_power(report.planted), Sentence(_unseen(report.planted))]
    return found + [Sentence(note) for note in report.notes]


def details(report: Report) -> list[Section]:
    """What the verdict rests on: matched parameters, and every resynchronised step."""
    verdict = report.verdict
    return [_parameters(report.matching), *([_checks(verdict)] if verdict is not None and verdict.checks else [])]


def _differences(findings: Sequence[Finding]) -> TableSection:
    """The first finding of every place, in causal order: the same layer differs at every step that is checked."""
    places: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        places.setdefault((finding.channel, finding.where), finding)
    rows = [
        [each.channel, each.where, "" if each.step is None else str(each.step), f"{each.difference:.1e}", each.cause]
        for each in list(places.values())[:SHOWN]
    ]
    more = f" (the first {SHOWN} of {len(places)} places)" if len(places) > SHOWN else ""
    return TableSection(f"differences{more}", ("channel", "where", "step", "difference", "probable cause"), rows)


_FIX_HEADS = ("tried on the other side", "loss difference before", "after", "outcome")


def _fix_row(fix: Fix) -> list[str]:
    outcome = f"helps, {fix.findings} differences left" if fix.helps else "does not help"
    if math.isnan(fix.after) and not math.isnan(fix.before):
        outcome = "does not run"
    return [fix.text, f"{fix.before:.1e}", f"{fix.after:.1e}", "closes the gap" if fix.closes else outcome]


def _fixed(fixes: Sequence[Fix], fixed: Verdict) -> str:
    if not any(fix.helps for fix in fixes):
        return "none of the known fixes helps"
    if fixed.same_algorithm:
        return "with these fixes both are the same algorithm"
    return f"with the fixes that help they part first in {fixed.first}"


def _checks(verdict: Verdict) -> TableSection:
    rows = []
    for check in verdict.checks:
        channels = (check.activations, check.gradients, check.updates, check.moments)
        rows.append([str(check.step), f"{check.loss:.1e}", *(_worst(each, "{:.1e}") for each in channels)])
    limits = f"limits: loss, activation, gradient {FLOAT64.loss:.0e}, update, moment {FLOAT64.update:.0e}"
    heads = ("step", "loss", "worst activation", "worst gradient", "worst update", "worst moment")
    return TableSection(f"resynchronised steps in float64 ({limits})", heads, rows)


def _low_checks(low: Sequence[LowPrecision]) -> TableSection:
    rows = []
    for each in low:
        for check in each.checks:
            updates = {
                name.removeprefix(UPDATE): value for name, value in check.multiples.items() if name.startswith(UPDATE)
            }
            gradients = {
                name: value for name, value in check.multiples.items() if name != "loss" and not name.startswith(UPDATE)
            }
            worst = [_worst(channel, "{:.2f}") for channel in (gradients, updates)]
            rows.append([each.precision, str(check.step), f"{check.multiples['loss']:.2f}", *worst])
    title = (
        f"resynchronised steps in low precision, as multiples of what rounding explains ({low[0].seeds} seeds; limit 1)"
    )
    return TableSection(title, ("precision", "step", "loss", "worst gradient", "worst update"), rows)


def _free_runs(low: Sequence[LowPrecision]) -> TableSection:
    rows = [
        [
            each.precision,
            f"{each.free.horizon} of {len(each.free.difference)}",
            f"{each.free.difference[: each.free.horizon].max():.1e}",
            f"{each.free.envelope[: each.free.horizon].max():.1e}",
            f"{each.free.multiple:.2f}",
            f"{each.free.outside} of {each.seeds}",
        ]
        for each in low
        if each.free is not None
    ]
    heads = ("precision", "steps", "loss difference", "envelope", "multiple of the limit", "nudged runs outside it")
    return TableSection("free runs in low precision (a warning, no proof)", heads, rows)


def _warnings(low: Sequence[LowPrecision]) -> list[Section]:
    found: list[Section] = [Sentence(each.warning) for each in low if each.warning]
    said: dict[str, list[str]] = {}
    for each in low:
        if each.free is not None:
            said.setdefault(each.free.confidence, []).append(each.precision)
    return found + [Sentence(f"{' and '.join(precisions)}: {text}") for text, precisions in said.items()]


def _power(planted: Sequence[Planted]) -> TableSection:
    precisions = [each for each in ("fp64", *LOW) if any(bug.precision == each for bug in planted)]
    seen = {(bug.name, bug.precision): "seen" if bug.seen else "NOT SEEN" for bug in planted}
    names = list(dict.fromkeys(bug.name for bug in planted))
    rows = [[name, *(seen.get((name, precision), "") for precision in precisions)] for name in names]
    return TableSection("bugs planted in the reference", ("planted", *precisions), rows)


def _unseen(planted: Sequence[Planted]) -> str:
    blind = list(dict.fromkeys(bug.precision for bug in planted if not bug.seen))
    if not blind:
        return "every planted bug would have been seen in every precision"
    unseen = {each: [bug.name for bug in planted if bug.precision == each and not bug.seen] for each in blind}
    return "; ".join(f"{precision} could not have seen: {', '.join(names)}" for precision, names in unseen.items())


def _parameters(matching: Matching) -> TableSection:
    """Matched parameters, then what could not be matched."""
    rows = [[pair.reference, " + ".join(pair.other), pair.how] for pair in matching.pairs]
    rows += [[name, " or ".join(others), "AMBIGUOUS: give a hint"] for name, others in matching.ambiguous.items()]
    rows += [[name, "", "NO PARTNER"] for name in matching.missing]
    rows += [["", name, "NO PARTNER"] for name in matching.unmatched]
    return TableSection("parameters", ("reference", "other", "matched by"), rows)


def _worst(measured: Mapping[str, float], form: str) -> str:
    name, value = max(measured.items(), key=lambda item: item[1], default=("", 0.0))
    return f"{form.format(value)} {name}" if value else "0"
