"""Progress bars on stderr, at a terminal only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from onnx_admm.contracts import Progress, SilentProgress, Task
from onnx_admm.printable import printable


class _Bar:
    """One bar of a `TerminalProgress`."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on; a note stays until the next."""
        self._bars.advance(self._task, steps)
        if note:
            self._bars.update(self._task, note=printable(note))


class TerminalProgress:
    """Progress bars that are shown while their work runs, nested work below."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Open a bar of ``total`` steps; the outermost one opens the display."""
        outermost = self._bars is None
        bars = self._bars or self._open()
        self._bars = bars
        entry = bars.add_task(printable(title), total=total, note="")
        try:
            yield _Bar(bars, entry)
        finally:
            bars.remove_task(entry)
            if outermost:
                bars.stop()
                self._bars = None

    def _open(self) -> Bars:
        bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        bars.start()
        return bars


def open_progress(console: Console, *, quiet: bool = False) -> Progress:
    """Return progress bars where ``console`` is a terminal and not quiet; else silent progress."""
    return TerminalProgress(console) if console.is_terminal and not quiet else SilentProgress()
