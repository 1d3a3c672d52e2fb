"""Memory of processes and of the machine, in bytes, as far as the system reports it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

_CONTROL_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files with a container's limit, by version of control groups."""

MUCH_BYTES = 1 << 25
"""Bytes of a model from which on `collect_garbage` is worth its time."""

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the resident memory of a process; None without ``/proc``, or once it has ended.

    Args:
        pid: its number; None for this process.
    """
    try:
        with open(f"/proc/{'self' if pid is None else pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def return_freed() -> None:
    """Return freed memory that the C library keeps to the system (glibc; elsewhere do nothing).

    Between steps that take much memory each, the fragments that one has freed are of little use to the next.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def collect_garbage() -> None:
    """Free objects that refer to one another, such as a search and its models, and return their memory.

    Between steps that take much memory each: sessions and weights of the last step may hang on such objects.
    """
    gc.collect()
    return_freed()


def machine_bytes() -> int | None:
    """Return the memory of the machine, or of the container of this process; None where unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (AttributeError, OSError, ValueError):
        return None
    for file in _CONTROL_GROUPS:
        try:
            total = min(total, int(file.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total
