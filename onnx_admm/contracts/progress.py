"""Where long work tells how far it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by ``steps``; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Where long work tells how far it is."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Open a bar of ``total`` steps."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        return None


class SilentProgress:
    """Says nothing."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A bar nobody sees."""
        return nullcontext(_SilentTask())
