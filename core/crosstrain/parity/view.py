"""A verdict on the terminal and as a page: what was compared, where the runs part first, and what closes the gap."""

import html
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crosstrain.parity.findings import Finding
from crosstrain.parity.fixes import Fix
from crosstrain.parity.matching import Matching
from crosstrain.parity.onestep import FLOAT64
from crosstrain.parity.verdict import Verdict

_SHOWN = 12


def headline(verdict: Verdict) -> tuple[bool, str]:
    """Whether the runs are the same algorithm, and the sentence that says so."""
    a, b = verdict.backends
    if verdict.same_algorithm:
        return True, (
            f"same algorithm: {a} and {b} agree in float64 at {len(verdict.checks)} resynchronised steps and over "
            f"{len(verdict.loss[0])} free steps (largest loss difference {verdict.free_difference:.1e} relative)"
        )
    return False, f"not the same algorithm: {a} and {b} part first in {verdict.first}"


def checks_rows(verdict: Verdict) -> list[list[str]]:
    """One row per resynchronised step: the worst of each channel, with what it was measured on."""
    rows = []
    for check in verdict.checks:
        cells = [str(check.step), f"{check.loss:.1e}"]
        for measured in (check.activations, check.gradients, check.updates, check.moments):
            name, value = max(measured.items(), key=lambda item: item[1], default=("", 0.0))
            cells.append(f"{value:.1e} {name}" if value else "0")
        rows.append(cells)
    return rows


_CHECK_HEADS = ("step", "loss", "worst activation", "worst gradient", "worst update", "worst moment")


def finding_rows(findings: Sequence[Finding]) -> list[list[str]]:
    """The first findings, in causal order."""
    return [
        [
            finding.channel,
            finding.where,
            "" if finding.step is None else str(finding.step),
            f"{finding.difference:.1e}",
            finding.cause,
        ]
        for finding in distinct(findings)[:_SHOWN]
    ]


def distinct(findings: Sequence[Finding]) -> list[Finding]:
    """The first finding of every place: the same layer differs at every step that is checked."""
    seen: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        seen.setdefault((finding.channel, finding.where), finding)
    return list(seen.values())


_FINDING_HEADS = ("channel", "where", "step", "difference", "probable cause")


def fix_rows(fixes: Sequence[Fix]) -> list[list[str]]:
    """Fixes in the order in which they were tried."""
    return [
        [
            fix.text,
            f"{fix.before:.1e}",
            f"{fix.after:.1e}",
            _outcome(fix),
        ]
        for fix in fixes
    ]


def _outcome(fix: Fix) -> str:
    if fix.closes:
        return "closes the gap"
    return f"helps, {fix.findings} differences left" if fix.helps else "does not help"


_FIX_HEADS = ("tried on the other side", "loss difference before", "after", "outcome")


def matching_rows(matching: Matching) -> list[list[str]]:
    """Matched parameters, then what could not be matched."""
    rows = [[pair.reference, " + ".join(pair.other), pair.how] for pair in matching.pairs]
    rows += [[name, " or ".join(others), "AMBIGUOUS: give a hint"] for name, others in matching.ambiguous.items()]
    rows += [[name, "", "NO PARTNER"] for name in matching.missing]
    return rows + [["", name, "NO PARTNER"] for name in matching.unmatched]


_MATCHING_HEADS = ("reference", "other", "matched by")


def fixed_sentence(fixes: Sequence[Fix], fixed: Verdict) -> str:
    """What is left when the fixes that help are made."""
    if not any(fix.helps for fix in fixes):
        return "none of the known fixes helps"
    if fixed.same_algorithm:
        return "with these fixes both are the same algorithm"
    return f"with the fixes that help they part first in {fixed.first}"


def terminal(
    verdict: Verdict | None, fixes: Sequence[Fix], matching: Matching | None, fixed: Verdict | None
) -> RenderableType:
    """Everything, as rich renderables."""
    parts: list[RenderableType] = []
    if matching is not None:
        parts.append(_table("parameters", _MATCHING_HEADS, matching_rows(matching)))
    if verdict is not None:
        if verdict.checks:
            limits = f"limits: loss, activation, gradient {FLOAT64.loss:.0e}, update, moment {FLOAT64.update:.0e}"
            parts.append(_table(f"resynchronised steps in float64 ({limits})", _CHECK_HEADS, checks_rows(verdict)))
        if verdict.findings:
            places = len(distinct(verdict.findings))
            more = f" (the first {_SHOWN} of {places} places)" if places > _SHOWN else ""
            parts.append(_table(f"differences{more}", _FINDING_HEADS, finding_rows(verdict.findings)))
        if fixes:
            parts.append(_table("fixes", _FIX_HEADS, fix_rows(fixes)))
        if fixes and fixed is not None:
            parts.append(Text(fixed_sentence(fixes, fixed)))
        good, sentence = headline(verdict)
        parts.append(Text(sentence, style="bold green" if good else "bold red"))
    return Group(*parts)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def write_page(
    path: Path,
    verdict: Verdict | None,
    fixes: Sequence[Fix],
    matching: Matching | None,
    fixed: Verdict | None,
    svg: str,
) -> None:
    """Writes one self-contained HTML page; `svg` is a figure or empty."""
    from crosstrain.parity.report import STYLE, html_table

    parts = []
    if verdict is not None:
        good, sentence = headline(verdict)
        parts.append(f'<p class="{"good" if good else "bad"}">{html.escape(sentence)}</p>{svg}')
        if verdict.findings:
            parts.append(html_table("Differences, in causal order", _FINDING_HEADS, finding_rows(verdict.findings)))
        if fixes:
            parts.append(html_table("Fixes", _FIX_HEADS, fix_rows(fixes)))
        if fixes and fixed is not None:
            parts.append(f"<p>{html.escape(fixed_sentence(fixes, fixed))}</p>")
        parts.append(html_table("Resynchronised steps in float64", _CHECK_HEADS, checks_rows(verdict)))
    if matching is not None:
        parts.append(html_table("Parameters", _MATCHING_HEADS, matching_rows(matching)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>crosstrain parity</title>'
        f"<style>{STYLE}</style></head><body><h1>Do these two models train the same?</h1>"
        f"{''.join(parts)}</body></html>",
        encoding="utf-8",
    )
