"""Temporary folders for intermediate files; those of killed runs are removed."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from onnx_admm.local_files.file_lock import try_lock

_PREFIX = "onnx-admm-"
_LOCK = ".onnx-admm-lock"
"""Lock file in folders made here: a folder with a similar name but without it belongs to a user."""


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder whose lock this process holds until it removes the folder.

    The first one of a process removes folders that killed runs of the same user left.

    Example:
        >>> with TemporaryFolder() as name:
        ...     Path(name, "model.onnx").write_bytes(b"")
        0
    """

    def __init__(self) -> None:
        remove_leftovers(tempfile.gettempdir())
        super().__init__(prefix=_PREFIX)
        self._lock = _Lock(os.open(os.path.join(self.name, _LOCK), os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.suppress(OSError):  # a file system without locks
            try_lock(self._lock.handle)

    def cleanup(self) -> None:
        """Release the lock and remove the folder."""
        self._lock.close()
        super().cleanup()


class _Lock:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.handle)

    __del__ = close


@functools.cache
def remove_leftovers(parent: str) -> None:
    """Remove temporary folders of dead runs; once for each process and place.

    Args:
        parent: the system's temporary folder.
    """
    with contextlib.suppress(OSError):
        for folder in Path(parent).glob(f"{_PREFIX}*"):
            if _is_dead(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    """Return whether a folder was made here, by this user, and no living process holds its lock."""
    try:
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
            return False
        handle = os.open(folder / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
