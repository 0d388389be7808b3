"""Pieces of Markdown in GitHub's form: tables whose cells cannot break them, and values as code."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table; `numbers` are aligned to the right."""
    rule = "---:" if numbers else "---"
    lines = [columns, [rule] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(value: object) -> str:
    """A value as it is, whatever characters it has."""
    text = " ".join(f"{value}".split("\n"))
    fence = "`"
    while fence in text:
        fence += "`"
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def number(value: float) -> str:
    """Six significant digits, as many as a reader compares; engines differ by rounding behind them."""
    return f"{value:.6g}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split("\n"))
