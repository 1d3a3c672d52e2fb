"""Tables of texts as Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from onnx_admm.printable import printable


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of GitHub's Markdown; every column but the first is aligned to the right."""
    lines = [_markdown_row(headers), "|---|" + "---:|" * (len(headers) - 1)]
    return "\n".join([*lines, *map(_markdown_row, rows)]) + "\n"


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of HTML, without styles."""
    lines = [_html_row("th", headers), *(_html_row("td", row) for row in rows)]
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"


def html_list(items: Sequence[str]) -> str:
    """Return a list of HTML; nothing where there is no item."""
    if not items:
        return ""
    return "<ul>" + "".join(f"<li>{_html(item)}</li>" for item in items) + "</ul>\n"


def markdown_text(text: str) -> str:
    """Return a text for one line of Markdown, with markup characters escaped."""
    for sign in "\\|`*_<[":
        text = text.replace(sign, f"\\{sign}")
    return printable(text)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_text(cell.strip()) for cell in cells) + " |"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_html(cell.strip())}</{tag}>" for cell in cells) + "</tr>"


def _html(text: str) -> str:
    return html.escape(printable(text))
