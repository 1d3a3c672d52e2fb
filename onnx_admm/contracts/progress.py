"""Progress: the interface through which long work reports how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Task(Protocol):
    """Progress of one piece of work.

    Example:
        >>> from onnx_admm.contracts import Task
        >>> class Counter:
        ...     '''Counts its steps.'''
        ...     steps = 0
        ...     def advance(self, steps=1, note=""):
        ...         self.steps += steps
        ...     def within(self, share):
        ...         pass
        >>> task: Task = Counter()
        >>> task.advance(3)
        >>> task.steps
        3
    """

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance by ``steps``; ``note`` is shown beside the bar."""

    def within(self, share: float) -> None:
        """Show that a share of the next step is done.

        Args:
            share: 0 to 1; long steps call this often, so that the time of all can be told early.
        """


class Progress(Protocol):
    """Display of the progress of long work.

    Example:
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
        """Open a progress bar of ``total`` steps."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        return None

    def within(self, share: float) -> None:
        return None


class SilentProgress:
    """A progress display that shows nothing.

    Example:
        >>> from onnx_admm.contracts import SilentProgress
        >>> with SilentProgress().task("rounding", total=3) as task:
        ...     task.advance(note="layer 1")
    """

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Return a task whose progress is not shown."""
        return nullcontext(_SilentTask())


class PartialProgress:
    """Progress of one step of a larger bar, which moves on with the bars of that step.

    Args:
        outer: where bars are shown.
        whole: the larger bar.
        steps: of the larger bar, that the work at hand stands for.

    Example:
        >>> from onnx_admm.contracts import PartialProgress, SilentProgress
        >>> class Counter:
        ...     steps = 0
        ...     def advance(self, steps=1, note=""):
        ...         self.steps += steps
        ...     def within(self, share):
        ...         pass
        >>> whole = Counter()
        >>> with PartialProgress(SilentProgress(), whole, steps=10).task("prune", total=2) as task:
        ...     task.advance()
        >>> whole.steps
        5
    """

    def __init__(self, outer: Progress, whole: Task, steps: int) -> None:
        self._outer, self._whole, self._steps = outer, whole, steps
        self._done = 0

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Open a bar of ``total`` steps, and move the larger bar on with it."""
        with self._outer.task(title, total) as bar:
            yield _PartialTask(bar, self, total)

    def reach(self, share: float) -> None:
        """Move the larger bar to a share of its steps, never back.

        Args:
            share: 0 to 1; 1 when the work is done.
        """
        reached = min(share, 1.0) * self._steps
        if int(reached) > self._done:
            self._whole.advance(int(reached) - self._done)
            self._done = int(reached)
        self._whole.within(max(0.0, reached - self._done))


class _PartialTask:
    def __init__(self, bar: Task, progress: PartialProgress, total: int) -> None:
        self._bar, self._progress, self._total = bar, progress, max(total, 1)
        self._steps = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._steps += steps
        self._bar.advance(steps, note)
        self._progress.reach(self._steps / self._total)

    def within(self, share: float) -> None:
        self._bar.within(share)
        self._progress.reach((self._steps + share) / self._total)
