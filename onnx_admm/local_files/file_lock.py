"""Locks on open files, held by one process at a time; the operating system drops them when it ends."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt

    def try_lock(handle: int) -> bool:
        """Lock an open file; False where another process, or another opening of it, has it locked.

        Args:
            handle: descriptor of a file that is open for writing.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(handle: int) -> bool:
        """Lock an open file; False where another process, or another opening of it, has it locked.

        Args:
            handle: descriptor of a file that is open for writing.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
