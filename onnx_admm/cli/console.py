"""Console output of commands: results on stdout, progress on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from onnx_admm.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_admm.contracts import Progress

_PIPE_WIDTH = 160
"""Columns where neither a terminal nor ``COLUMNS`` gives a width: tables are not cut."""


def show(parts: Iterable[RenderableType]) -> None:
    """Print tables and sentences to stdout; text is printed as it is, control characters escaped."""
    from rich.console import Console

    from onnx_admm.report.plain_table import line

    width = None if _is_terminal() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(line(part) if isinstance(part, str) else part)


def say(sentence: str) -> None:
    """Print one line to stdout; control characters are escaped."""
    typer.echo(printable(sentence))


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def progress_bars(*, quiet: bool = False) -> Progress:
    """Return progress bars on stderr, at a terminal only."""
    from rich.console import Console

    from onnx_admm.cli.progress_bars import open_progress

    return open_progress(Console(stderr=True), quiet=quiet)
