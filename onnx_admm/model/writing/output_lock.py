"""The lock of an output file, and the work folder of its writer.

A run that writes ``OUT`` works in the folder ``.OUT.onnx-admm`` next to it and holds a lock on the file
``lock`` in that folder. The operating system drops the lock when the process ends in any way. So a folder
whose lock can be taken belongs to a dead run, and its content may be removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from pathlib import Path

from onnx_admm.errors import OutputError, UsageError
from onnx_admm.local_files.file_lock import try_lock

_SUFFIX = ".onnx-admm"
_LOCK = "lock"
_LONGEST_NAME = 255
"""Longest file name of common file systems, in bytes."""


def work_folder(target: Path) -> Path:
    """Return the folder that a writer of ``target`` works in: hidden, and on the same file system."""
    name = f".{target.name}{_SUFFIX}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{_SUFFIX}"
    return target.parent / name


class OutputLock:
    """The exclusive right to write one output file.

    Args:
        target: the output file, with links followed.
        named: its name in errors.
    """

    def __init__(self, target: Path, named: Path) -> None:
        self.folder = work_folder(target)
        self._file = self.folder / _LOCK
        self._named = named
        self._handle: int | None = None
        self._is_started = False

    def acquire(self) -> None:
        """Take the lock, and create the folder.

        Raises:
            UsageError: another run holds the lock, or the folder's name is taken by something else.
            OutputError: the disk refuses.
        """
        self._is_started = True
        try:
            is_taken = self._take()
        except OSError as error:
            raise OutputError(f"cannot write ({error.strerror or error})", where=self._named) from error
        if not is_taken:
            raise UsageError(
                "another run is writing this file",
                where=self._named,
                hint="Wait until it has ended, or name another file.",
            )

    def leftovers(self) -> list[Path]:
        """Return the content of the folder without the lock: of this run, or of a dead one."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.name != _LOCK)
        except OSError:
            return []

    def clear(self) -> None:
        """Remove the content of the folder except the lock."""
        for path in self.leftovers():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()

    def release(self) -> None:
        """Remove the folder and release the lock; do nothing where another run holds it.

        An interruption that arrives meanwhile is raised after the folder is removed.
        """
        try:
            self._remove()
        except BaseException:
            self._remove()
            raise

    def is_ours(self) -> bool:
        """Return whether this object holds the lock; complete an acquisition that was interrupted."""
        if self._handle is None and self._is_started and self._file.exists():
            with contextlib.suppress(OSError, UsageError):
                return self._take()
        return self._handle is not None

    def _remove(self) -> None:
        if self.is_ours():
            self.clear()
            handle, self._handle = self._handle, None
            if sys.platform == "win32":  # an open file cannot be removed there
                _close(handle)
            with contextlib.suppress(OSError):
                self._file.unlink()
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            if sys.platform != "win32":
                _close(handle)
        elif self._is_started:
            with contextlib.suppress(OSError):  # made, and not yet locked; never removed with content
                self.folder.rmdir()

    def _take(self) -> bool:
        """Create the folder and lock the file in it; return False where another process holds the lock."""
        while True:
            self._make_folder()
            try:
                handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:  # removed by the run that held it before
                continue
            if not try_lock(handle):
                os.close(handle)
                return False
            if _is_same(handle, self._file):
                self._handle = handle
                return True
            os.close(handle)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            is_other = not self.folder.is_dir() or (not self._file.exists() and any(self.folder.iterdir()))
            if is_other:
                raise UsageError(
                    "the name of the folder to work in is taken",
                    where=self.folder,
                    hint="Move it away, or name another output file.",
                ) from None


def _is_same(handle: int, file: Path) -> bool:
    """Return whether the name still belongs to the open file."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _close(handle: int | None) -> None:
    if handle is not None:
        with contextlib.suppress(OSError):
            os.close(handle)
