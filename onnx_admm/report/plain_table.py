"""Tables and lines for the terminal with plain text: no markup, no control characters."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnx_admm.printable import printable


def line(text: str) -> Text:
    """Return one line of text to print: brackets are no markup, control characters are escaped."""
    return Text(printable(text))


class PlainTable(Table):
    """A table without borders, of cells that are plain text.

    Args:
        headers: titles of columns.
    """

    def __init__(self, *headers: str) -> None:
        super().__init__(box=None, pad_edge=False)
        for header in headers:
            self.add_column(header)

    def add_column(self, header: RenderableType = "", *rest: Any, **settings: Any) -> None:
        """Add a column; see `rich.table.Table`."""
        super().add_column(_plain(header), *rest, **settings)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row; see `rich.table.Table`."""
        super().add_row(*(_plain(cell) for cell in cells), **settings)


def _plain(cell: RenderableType | None) -> RenderableType:
    return line(cell) if isinstance(cell, str) else cell or ""
