"""Progress: the interface through which long work reports how far it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """Progress of one piece of work."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance by ``steps``; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Display of the progress of long work."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Open a progress bar of ``total`` steps."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        return None


class SilentProgress:
    """A progress display that shows nothing."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Return a task whose progress is not shown."""
        return nullcontext(_SilentTask())
