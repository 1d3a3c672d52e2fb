"""Where long work tells how far it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One bar.

    Example:
        >>> from onnx_admm.contracts import Task
        >>> class Counter:
        ...     '''Counts its steps.'''
        ...     steps = 0
        ...     def advance(self, steps=1, note=""):
        ...         self.steps += steps
        >>> task: Task = Counter()
        >>> task.advance(3)
        >>> task.steps
        3
    """

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by ``steps``; ``note`` is shown beside the bar."""


class Progress(Protocol):
    """Where long work tells how far it is.

    Example:
        >>> from contextlib import contextmanager
        >>> import onnx_admm
        >>> from onnx_admm.contracts import SilentProgress
        >>> from onnx_admm.testing import model_family
        >>> titles = []
        >>> class Titles(SilentProgress):
        ...     '''Keeps the title of every bar.'''
        ...     def task(self, title, total):
        ...         titles.append(title)
        ...         return super().task(title, total)
        >>> net = model_family()["conv_net"].to_bytes()
        >>> _ = onnx_admm.compare(net, net, threads=1, progress=Titles())
        >>> len(titles) > 0
        True
    """

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Open a bar of ``total`` steps."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        return None


class SilentProgress:
    """Says nothing.

    Example:
        >>> from onnx_admm.contracts import SilentProgress
        >>> with SilentProgress().task("rounding", total=3) as task:
        ...     task.advance(note="layer 1")
    """

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A bar nobody sees."""
        return nullcontext(_SilentTask())
