"""Where commands speak: results on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnx_admm.contracts import Progress
    from onnx_admm.data import Preprocessing

_PIPE_WIDTH = 160
"""Columns where nobody says how wide the reader is: tables are not cut."""


def show(parts: Iterable[RenderableType]) -> None:
    """Print tables and sentences to stdout."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)
    for part in parts:
        console.print(part)


def progress_bars(*, quiet: bool = False) -> Progress:
    """Bars on stderr, at a terminal only."""
    from rich.console import Console

    from onnx_admm.progress import open_progress

    return open_progress(Console(stderr=True), quiet=quiet)


def load_preprocessing(path: Path | None) -> Preprocessing | None:
    """The preprocessing in a TOML file: its keys, or a recipe's ``[preprocessing]``."""
    if path is None:
        return None
    from onnx_admm.data import Preprocessing
    from onnx_admm.settings import build, read_toml

    table = read_toml(path)
    return build(Preprocessing, table.get("preprocessing", table), str(path))
