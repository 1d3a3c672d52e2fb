"""The bytes of a file, read on demand.

A mapped file would do the same, but the process dies (SIGBUS) when another process truncates the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self, overload

from onnx_admm.errors import ModelError

_WINDOW_BYTES = 1 << 16


class FileBytes:
    """A read-only sequence of a file's bytes; single bytes come from a moving window.

    Args:
        path: an existing file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._length = os.fstat(self._handle).st_size
        self._start, self._window = 0, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> bytes: ...

    def __getitem__(self, index: int | slice) -> int | bytes:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._length)
            return self._read(start, max(0, stop - start))
        if not self._start <= index < self._start + len(self._window):
            if not 0 <= index < self._length:
                raise IndexError(index)
            self._start = index
            self._window = self._read(index, min(_WINDOW_BYTES, self._length - index))
        return self._window[index - self._start]

    def _read(self, start: int, length: int) -> bytes:
        """Read ``length`` bytes from ``start``.

        Raises:
            ModelError: the file has become shorter.
        """
        os.lseek(self._handle, start, os.SEEK_SET)
        pieces = []
        while length:
            piece = os.read(self._handle, min(length, 1 << 30))
            if not piece:
                raise ModelError("the file has become shorter while it was read", where=self._path)
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)
