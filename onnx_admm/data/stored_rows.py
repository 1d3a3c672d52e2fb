"""Arrays that stay in their file: rows are read on demand.

A mapped file would do the same, but the process dies (SIGBUS) when another process truncates the file.
"""

from __future__ import annotations

import math
import os
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.data.sources import Index
from onnx_admm.errors import DataError


class StoredRows:
    """An array in a file, in C order; the first axis counts samples. A `Source`.

    Args:
        path: the file; it stays open.
        offset: offset of the first element, in bytes.
        dtype: type of an element.
        shape: shape of the array, at least one axis.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        self._path, self._offset, self._dtype, self._shape = path, offset, dtype, shape
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of an element."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._shape)

    @property
    def end(self) -> int:
        """Offset behind the last element, in bytes."""
        return self._offset + self._shape[0] * self._row_bytes

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._shape[1:]

    def __len__(self) -> int:
        return self._shape[0]

    def take(self, index: Index) -> Array:
        """Read the rows at ``index``; read neighbours together.

        Raises:
            DataError: the file has become shorter, or cannot be read.
            IndexError: a row out of range.
        """
        rows = np.arange(len(self))[index]
        out = np.empty((len(rows), *self.sample_shape), self._dtype)
        target = as_bytes(out)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else []):
            piece = target[start * self._row_bytes : stop * self._row_bytes]
            read_exactly(self._handle, piece, self._offset + int(rows[start]) * self._row_bytes, self._path)
        return out


def as_bytes(array: Array) -> memoryview:
    """Return the bytes of an array in C order, of any type, without a copy."""
    if not array.nbytes:
        return memoryview(b"")
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def read_exactly(handle: int, buffer: memoryview, offset: int, where: object) -> None:
    """Fill a buffer of bytes from an open file.

    Args:
        handle: descriptor of the file.
        buffer: what to fill, of format ``B``.
        offset: of the first byte in the file.
        where: how errors name the file.

    Raises:
        DataError: the file has become shorter, or cannot be read.
    """
    while buffer:
        try:
            os.lseek(handle, offset, os.SEEK_SET)
            piece = os.read(handle, min(len(buffer), 1 << 30))
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=where) from error
        if not piece:
            raise DataError("the file has become shorter while it was read", where=where)
        buffer[: len(piece)] = piece
        buffer, offset = buffer[len(piece) :], offset + len(piece)
