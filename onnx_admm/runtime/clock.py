"""Which clock a run is timed by."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives nanoseconds since some moment."""


def clock_for(threads: int) -> Clock:
    """Processor time of this thread where it does all the work and that clock is fine; else time by the wall.

    Args:
        threads: intra-op threads of the session; with one, the calling thread runs the kernels.
    """
    if threads == 1 and sys.platform != "win32":
        return time.thread_time_ns
    return time.perf_counter_ns
