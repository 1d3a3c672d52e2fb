"""A run under limits: the budget of the current run, and the thread that watches clock and memory."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from onnx_admm.errors import LimitReached, RunStopped
from onnx_admm.limits.budget import RunBudget, RunLimits, process_bytes, refused_memory

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[RunBudget | None] = ContextVar("onnx_admm_run_budget", default=None)
_running: list[RunBudget] = []
"""Budgets of the current runs, for threads without a context of their own."""

_WATCHED_EVERY_S = 0.05
_GRACE_S = 10.0
_STEPS = 100
"""Steps of a loop, far more than between two places where CPython raises an exception from another thread."""

_TOLD_AGAIN_S = 2.0
_GROWN_BYTES = 256 << 20
"""Bytes, or a quarter, above the memory at the limit, from which on the run is ended without waiting."""

_interrupts: set[Callable[[], None]] = set()


class _Stopped(RunStopped):
    """Raised in the thread of a run from outside; `run_within` turns it into the limit that is reached."""


def current_budget() -> RunBudget:
    """Return the budget of the current run; without one, a new one with the machine's memory as limit."""
    return _current.get() or (_running[-1] if _running else RunBudget(in_proportion=False))


@contextmanager
def run_within(
    limits: RunLimits | None = None, *, abandon: Callable[[LimitReached], None] | None = None
) -> Iterator[RunBudget]:
    """Run the body under limits; without limits of its own, as a part of an enclosing run.

    Args:
        limits: limits of the run.
        abandon: called in another thread where the run does not end by itself within 10 s, or goes on to take
            memory, because code outside Python does not return; it ends the process.

    Raises:
        LimitReached: a limit is reached, or the system refuses memory.

    Example:
        >>> from onnx_admm.api import RunLimits, inspect_model, run_within
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> with run_within(RunLimits(max_memory_mb=4000, timeout_s=60)) as budget:
        ...     facts = inspect_model("net.onnx")
        >>> budget.remaining_s < 60
        True
    """
    outer = _current.get()
    if outer is not None and limits is None:
        yield outer
        return
    budget = RunBudget(limits, outer)
    token = _current.set(budget)
    _running.append(budget)
    watch = _Watch(budget, abandon)
    try:
        try:
            budget.check()
            watch.start()
            yield budget
        finally:
            watch.stop()
    except _Stopped:
        raise watch.reached or LimitReached("a limit of the run is reached") from None
    except MemoryError as error:
        raise refused_memory(error) from error
    except RecursionError as error:
        raise LimitReached("the model or its data is nested too deeply for a run") from error
    finally:
        _running.remove(budget)
        _current.reset(token)


def in_a_run(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function to run under the default limits, or as a part of the run that calls it."""

    @functools.wraps(function)
    def limited(*args: P.args, **options: P.kwargs) -> R:
        with run_within():
            return function(*args, **options)

    return limited


@contextmanager
def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call ``interrupt`` in another thread when a limit is reached, to end work outside Python."""
    _interrupts.add(interrupt)
    try:
        yield
    finally:
        _interrupts.discard(interrupt)


class _Watch:
    """A thread that stops its creating thread when a limit is reached."""

    def __init__(self, budget: RunBudget, abandon: Callable[[LimitReached], None] | None) -> None:
        self.reached: LimitReached | None = None
        self._budget = budget
        self._abandon = abandon
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="onnx-admm limits", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the watch; a pending exception is raised and caught here.

        To revoke it instead (by a null pointer) leaves CPython 3.11 looking for one forever: under a tracer
        or a profiler the process then hangs.
        """
        is_over = False
        while not is_over:
            try:
                with self._lock:
                    self._over.set()
                for _ in range(_STEPS):  # a pending exception is raised at one of them
                    pass
                is_over = True
            except _Stopped:
                continue
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        """Watch until the run is over; this thread is not traced.

        In CPython 3.11 a traced thread stops while an exception for another one is pending.
        """
        sys.settrace(None)
        sys.setprofile(None)
        while not self._over.wait(_WATCHED_EVERY_S):
            self.reached = self._budget.reached()
            if self.reached is not None:
                break
        else:
            return
        for interrupt in tuple(_interrupts):
            with suppress(Exception):
                interrupt()
        waited, taken = 0.0, process_bytes() or 0
        while not self._over.is_set():
            if waited % _TOLD_AGAIN_S < _WATCHED_EVERY_S:  # it may have been raised in a callback, and lost
                with self._lock:
                    if not self._over.is_set():
                        _raise_in(self._watched, _Stopped)
            self._over.wait(_WATCHED_EVERY_S)
            waited += _WATCHED_EVERY_S
            grown = (process_bytes() or 0) > taken + max(_GROWN_BYTES, taken // 4)
            if self._abandon is not None and (waited > _GRACE_S or grown) and not self._over.is_set():
                self._abandon(self.reached)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise ``error`` in a thread at its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
