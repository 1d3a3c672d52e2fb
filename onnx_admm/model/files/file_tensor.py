"""Tensors whose content stays in a file and is read on each access, without a copy in memory.

A mapped file would save one copy, but every page once touched counts as resident until the map is closed, and
a map lives as long as any array on it; an array that was read is freed with its content.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import ModelError, OutputError

KEPT_IN_FILES_FROM_BYTES = 1 << 20
"""Size from which on stored contents stay in the model file, or its external file."""

_SPILLED_FROM_BYTES = 1 << 24

_CHUNK_BYTES = 1 << 22


class Sink(Protocol):
    """A destination of bytes: a file, a digest."""

    def write(self, data: memoryview, /) -> object:
        """Write the bytes."""


class OpenFile:
    """An open file: it stays readable when another file takes its name.

    Args:
        path: the file to read; None for a temporary file, removed with this object, that arrays are appended
            to.

    Raises:
        ModelError: the file cannot be opened.
        OutputError: no temporary file can be made.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.gettempdir(), "onnx-admm")
        try:
            if path is None:
                self._stream = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            else:
                self._stream = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            if path is None:
                raise _unwritten(error, self.path) from error
            raise ModelError(f"cannot read the file ({error.strerror})", where=self.path) from error
        self._lock = threading.Lock()
        weakref.finalize(self, self._stream.close)

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        Raises:
            ModelError: the file has become shorter, or cannot be read.
        """
        try:
            with self._lock:
                self._stream.seek(offset)
                while buffer:
                    count = self._stream.readinto(buffer)
                    if not count:
                        raise ModelError(
                            "the file that holds the weights has become shorter", where=self.path
                        )
                    buffer = buffer[count:]
        except OSError as error:
            raise ModelError(f"cannot read the weights ({error.strerror})", where=self.path) from error

    def append(self, array: npt.NDArray[Any]) -> int:
        """Append an array's bytes; return the offset of the first.

        Raises:
            OutputError: the disk refuses.
        """
        data = bytes_of(array)
        try:
            with self._lock:
                offset = self._stream.seek(0, 2)
                while data:
                    data = data[self._stream.write(data) :]
                return offset
        except OSError as error:
            raise _unwritten(error, self.path) from error


def _unwritten(error: OSError, path: Path) -> OutputError:
    return OutputError(f"cannot write a temporary file ({error.strerror})", where=path)


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Return the bytes of an array's elements, row by row, without a copy where the layout allows."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return memoryview(flat.view(np.uint8)) if flat.size else memoryview(b"")  # type: ignore[arg-type]


class FileTensor(ir.ExternalTensor):
    """A tensor in a file; each call of ``numpy`` reads it into a new array.

    Args:
        file: file with the content.
        offset: offset of its first byte.
        like: gives name, type, shape and notes; its content is not read.
    """

    def __init__(self, file: OpenFile, offset: int, like: ir.TensorProtocol) -> None:
        super().__init__(
            file.path.name,
            offset,
            like.nbytes,
            like.dtype,
            shape=ir.Shape(like.shape.numpy()),
            name=like.name or "",
            doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
            base_dir=file.path.parent,
        )
        self.meta.update(like.meta)
        self._file = file

    def numpy(self) -> npt.NDArray[Any]:
        """Return the content in a new array."""
        array = np.empty(tuple(self.shape.numpy()), self.dtype.numpy())
        self._file.read(self.offset or 0, bytes_of(array))
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def tobytes(self) -> bytes:
        """Return the content, little endian."""
        return self.numpy().tobytes()

    def tofile(self, file: Sink) -> None:
        """Write the content, a few megabytes at a time."""
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, self.nbytes)))
        for start in range(0, self.nbytes, _CHUNK_BYTES):
            piece = buffer[: self.nbytes - start]
            self._file.read((self.offset or 0) + start, piece)
            file.write(piece)


def is_large(tensor: ir.TensorProtocol) -> bool:
    """Return whether a tensor's content stays in a file; never for elements of less than a byte."""
    return tensor.nbytes >= KEPT_IN_FILES_FROM_BYTES and tensor.dtype.bitwidth >= 8


def leave_in_files(model: ir.Model) -> None:
    """Replace mappings of large external initializers by reads on each access."""
    opened: dict[Path, OpenFile] = {}
    for value, tensor in _large_initializers(model):
        if isinstance(tensor, ir.ExternalTensor):
            path = Path(tensor.path)
            if path not in opened:
                opened[path] = OpenFile(path)
            value.const_value = FileTensor(opened[path], tensor.offset or 0, tensor)


def spill(model: ir.Model) -> None:
    """Move large initializers from memory into a temporary file where they are many megabytes together.

    The file is removed with the last of them. What the disk does not take stays in memory.
    """
    inner = [
        (value, tensor)
        for value, tensor in _large_initializers(model)
        if not isinstance(tensor, ir.ExternalTensor | ir.LazyTensor)
    ]
    if sum(tensor.nbytes for _, tensor in inner) < _SPILLED_FROM_BYTES:
        return
    with suppress(OutputError):
        file = OpenFile()
        for value, tensor in inner:
            value.const_value = FileTensor(file, file.append(tensor.numpy()), tensor)


def spilled(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a very large tensor as one in a temporary file, others unchanged."""
    if tensor.nbytes < _SPILLED_FROM_BYTES:
        return tensor
    file = OpenFile()
    return FileTensor(file, file.append(tensor.numpy()), tensor)


def _large_initializers(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, FileTensor) and is_large(tensor):
                yield value, tensor
