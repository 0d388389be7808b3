"""A report on a port on the terminal and as one page."""

import html
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crosstrain.parity.examine import Report
from crosstrain.parity.sections import Section, Sentence, TableSection, details, headline, results

_STYLES = {"good": "bold green", "bad": "bold red", "plain": ""}


def terminal(report: Report) -> RenderableType:
    """Everything, as rich renderables: the answer stands at the end, where reading begins."""
    return Group(*(_renderable(each) for each in [*details(report), *results(report), headline(report)]))


def write_page(path: Path, report: Report) -> None:
    """Writes one self-contained HTML page, the answer first."""
    from crosstrain.parity.figure import draw_losses, to_svg
    from crosstrain.parity.report import STYLE

    verdict = report.verdict
    svg = to_svg(draw_losses(verdict)) if verdict is not None and len(verdict.loss[0]) else ""
    parts = [_element(headline(report)), svg, *(_element(each) for each in [*results(report), *details(report)])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>crosstrain parity</title>'
        f"<style>{STYLE}</style></head><body><h1>Do these two models train the same?</h1>"
        f"{''.join(parts)}</body></html>",
        encoding="utf-8",
    )


def _renderable(section: Section) -> RenderableType:
    if isinstance(section, Sentence):
        return Text(section.text, style=_STYLES[section.tone])
    table = Table(title=section.title, title_justify="left", header_style="bold")
    for head in section.heads:
        table.add_column(head, overflow="fold")
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _element(section: Section) -> str:
    from crosstrain.parity.report import html_table

    match section:
        case TableSection(title, heads, rows):
            return html_table(title[:1].upper() + title[1:], heads, rows, words=True)
        case Sentence(text, tone):
            return f'<p class="{tone}">{html.escape(text)}</p>'
