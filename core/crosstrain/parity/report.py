"""The report of a comparison as files: one self-contained HTML page, and the figure as PNG."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crosstrain.parity.compare import FLOAT64_LIMIT, Comparison, relative_difference
from crosstrain.parity.figure import draw, to_svg
from crosstrain.parity.recipe import Trace
from crosstrain.parity.tables import shown_steps

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
.words th, .words td { text-align: left; vertical-align: top; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.good { color: #188038; font-weight: 600; } .bad { color: #d93025; font-weight: 600; }
svg { width: 100%; height: auto; background: white; border-radius: 8px; }
footer { margin-top: 3rem; opacity: .7; }
"""


def write(comparisons: Sequence[Comparison], environment: Mapping[str, Mapping[str, str]], folder: Path) -> list[Path]:
    """Writes `parity.html` and `parity.png`.

    Args:
        comparisons: what to show.
        environment: engine -> versions and devices.
        folder: made when it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(comparisons)
    page, image = folder / "parity.html", folder / "parity.png"
    figure.savefig(image, dpi=110)
    page.write_text(render(comparisons, environment, to_svg(figure)), encoding="utf-8")
    return [page, image]


def render(comparisons: Sequence[Comparison], environment: Mapping[str, Mapping[str, str]], svg: str) -> str:
    """The HTML page."""
    failures = [failure for comparison in comparisons for failure in comparison.failures]
    summary = (
        '<p class="good">The engines agree.</p>'
        if not failures
        else "".join(f'<p class="bad">{html.escape(failure)}</p>' for failure in failures)
    )
    machine = "".join(
        f"<li><b>{html.escape(engine)}</b>: {html.escape(', '.join(f'{k} {v}' for k, v in facts.items()))}</li>"
        for engine, facts in environment.items()
    )
    sections = "".join(_section(comparison) for comparison in comparisons)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>crosstrain parity</title>'
        f"<style>{STYLE}</style></head><body><h1>Do both engines train the same?</h1>{summary}"
        f"{svg}{sections}<footer><ul>{machine}</ul></footer></body></html>"
    )


def _section(comparison: Comparison) -> str:
    first, second = comparison.runs
    return (
        f"<h2>{html.escape(comparison.name)}</h2>"
        f"{_verdict(comparison)}"
        f"{_pairs('First steps in float64', *comparison.checks)}"
        f"{_pairs(f'Training in float32, seed {first[0].seed}', first[0], second[0])}"
        f"{_outcome(comparison)}"
    )


def _verdict(comparison: Comparison) -> str:
    return (
        "<p>"
        + _judged(comparison.float64_difference <= FLOAT64_LIMIT, "same algorithm", "not the same algorithm")
        + f": {len(comparison.checks[0].loss)} float64 steps differ by at most {comparison.float64_difference:.1e} "
        f"relative (limit {FLOAT64_LIMIT:.0e}).<br>"
        + _judged(comparison.accuracy_difference <= comparison.accuracy_limit, "same result", "not the same result")
        + f": mean accuracies differ by {comparison.accuracy_difference:.4f}; seeds alone make "
        f"{comparison.accuracy_limit:.4f}.</p>"
    )


def _judged(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{yes if good else no}</span>'


def _pairs(caption: str, a: Trace, b: Trace) -> str:
    heads = [
        "step",
        f"loss {a.backend}",
        f"loss {b.backend}",
        "rel. difference",
        f"grad norm {a.backend}",
        f"grad norm {b.backend}",
        "rel. difference",
    ]
    rows = []
    for step in shown_steps(min(len(a.loss), len(b.loss))):
        cells = [str(step + 1)]
        for x, y in ((a.loss[step], b.loss[step]), (a.grad_norm[step], b.grad_norm[step])):
            cells += [f"{x:.12g}", f"{y:.12g}", f"{float(relative_difference(x, y)):.1e}"]
        rows.append(cells)
    return html_table(caption, heads, rows)


def _outcome(comparison: Comparison) -> str:
    rows = [
        [
            runs[0].backend,
            ", ".join(f"{value:.4f}" for value in accuracies),
            f"{np.mean(accuracies):.4f}",
            f"{np.median([run.examples_per_s for run in runs]):,.0f}",
        ]
        for runs, accuracies in zip(comparison.runs, comparison.accuracies, strict=True)
    ]
    return html_table("After training", ["engine", "accuracy of each seed", "mean", "examples/s"], rows)


def html_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """A table with everything in it escaped; `words` begin at the left, numbers end at the right."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    return f"<table{kind}><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"
