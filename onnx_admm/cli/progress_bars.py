"""Progress bars on stderr, at a terminal only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Entry

from onnx_admm.contracts import Progress, SilentProgress, Task
from onnx_admm.printable import printable
from onnx_admm.report.plain_table import line


class _Bar:
    """One bar of a `TerminalProgress`."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self._steps = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on; a note stays until the next."""
        self._steps += steps
        self._bars.update(self._task, completed=self._steps)
        if note:
            self._bars.update(self._task, note=printable(note))

    def within(self, share: float) -> None:
        """Show a share of the next step."""
        self._bars.update(self._task, completed=self._steps + min(max(share, 0.0), 1.0))


class _TotalTimeColumn(ProgressColumn):
    """Time that has passed, and about how much the whole bar takes, from what is done so far."""

    def render(self, task: Entry) -> RenderableType:
        elapsed = task.elapsed or 0.0
        expected = expected_s(elapsed, task.completed, task.total or 0)
        return line(f"{clock(elapsed)} of about {clock(expected)}")


def expected_s(elapsed_s: float, done: float, total: float) -> float | None:
    """Return about how many seconds a bar takes in all; None while that cannot be told.

    Args:
        elapsed_s: seconds so far; after less than one, starting up would be taken for work.
        done: steps so far, with the share of the one under way.
        total: steps in all.
    """
    return None if elapsed_s < 1 or done <= 0 else elapsed_s * total / done


def clock(seconds: float | None) -> str:
    """Return a time as ``1:02:03`` or ``2:03``; ``-:--`` for None."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


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
            _TotalTimeColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        bars.start()
        return bars


def open_progress(console: Console, *, quiet: bool = False) -> Progress:
    """Return progress bars where ``console`` is a terminal and not quiet; else silent progress."""
    return TerminalProgress(console) if console.is_terminal and not quiet else SilentProgress()
