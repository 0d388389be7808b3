"""Model cards read back: the YAML head by PyYAML, the rest by a Markdown parser that knows tables."""

from typing import Any, NamedTuple

import yaml
from markdown_it import MarkdownIt


class Card(NamedTuple):
    """A card in parts. `tables` and `code` are by the heading that they stand under."""

    metadata: dict[str, Any]
    text: str
    tables: dict[str, list[list[str]]]
    code: dict[str, list[str]]

    def settings(self, heading: str) -> dict[str, str]:
        columns, *rows = self.tables[heading]
        assert columns == ["setting", "value"]
        return dict(row for row in rows)


def read(text: str) -> Card:
    """Parses a card; every row of a table has as many cells as its head."""
    start, head, body = text.split("---\n", 2)
    assert start == ""
    tables: dict[str, list[list[str]]] = {}
    code: dict[str, list[str]] = {}
    heading, inside = "", ""
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        inside = token.type if token.type.endswith("_open") else inside
        if token.type == "tr_open":
            tables.setdefault(heading, []).append([])
        elif token.type == "inline" and inside == "heading_open":
            heading = token.content
        elif token.type == "inline" and inside in ("th_open", "td_open"):
            words = "".join(child.content for child in token.children or ())
            tables[heading][-1].append(words)
        elif token.type == "fence":
            code.setdefault(heading, []).append(token.content)
    assert all(len(row) == len(rows[0]) for rows in tables.values() for row in rows)
    return Card(yaml.safe_load(head), body, tables, code)
