"""Choice of the clock for timed runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns nanoseconds since a fixed moment."""


def clock_for(threads: int) -> Clock:
    """Return the thread's processor time where one thread does all work; else wall-clock time.

    Args:
        threads: intra-op threads of the session; with one, the calling thread runs the kernels.
    """
    if threads == 1 and sys.platform != "win32":
        return time.thread_time_ns
    return time.perf_counter_ns
