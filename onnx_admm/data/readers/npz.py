"""Arrays by name: ``.npz`` archives and folders of ``.npy`` files, left on disk where possible."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.data.readers.inflation import check_inflated, open_zip
from onnx_admm.data.stored_rows import StoredRows
from onnx_admm.errors import DataError, reading

_SUFFIX = ".npy"
_LOCAL_HEADER_BYTES = 30


def read_npz(path: Path) -> dict[str, Array | StoredRows]:
    """Return the arrays by member name; members stored uncompressed stay in the file.

    Raises:
        DataError: not an npz, damaged, with pickled objects, or compressed out of proportion.
    """
    with open_zip(path, ".npz file") as archive, reading(path, DataError, "not a readable .npz file"):
        members = [member for member in archive.infolist() if member.filename.endswith(_SUFFIX)]
        check_inflated(sum(member.file_size for member in members), path.stat().st_size, path)
        return {member.filename.removesuffix(_SUFFIX): _member(path, archive, member) for member in members}


def read_npy_folder(folder: Path) -> dict[str, Array | StoredRows]:
    """Return the arrays by file name of every ``.npy`` in a folder; they stay in their files.

    Raises:
        DataError: damaged, or with pickled objects.
    """
    return {path.stem: read_npy(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))}


def read_npy(path: Path) -> Array | StoredRows:
    """Return the array of a ``.npy`` file; it stays in the file.

    Raises:
        DataError: damaged, or with pickled objects.
    """
    with reading(path, DataError, "not a readable .npy file"), path.open("rb") as stream:
        return _array(stream, os.fstat(stream.fileno()).st_size, _Place(path, 0), str(path))


@dataclass(frozen=True, slots=True)
class _Place:
    """Start of a ``.npy`` stream in a file."""

    path: Path
    offset: int


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array | StoredRows:
    where = f"{path}: {member.filename}"
    with reading(where, DataError, "not a readable array"), archive.open(member) as stream:
        stored = member.compress_type == zipfile.ZIP_STORED
        place = _Place(path, _data_offset(path, member)) if stored else None
        return _array(stream, member.file_size, place, where)


def _array(stream: IO[bytes], size: int, place: _Place | None, where: str) -> Array | StoredRows:
    """Read a ``.npy`` stream, or only its header where rows can be read from the file later.

    Nothing is allocated before the header's shape and type are checked against the stored size.

    Args:
        stream: a stream at its start.
        size: bytes of the stream, expanded.
        place: start of the stream in a file; None where it is compressed.
        where: its name in errors.
    """
    version = np.lib.format.read_magic(stream)
    if version[0] == 1:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    _check_header(shape, dtype, size - stream.tell(), where)
    if place is None or fortran or 0 in shape or not shape:
        stream.seek(0)
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array
    rows = StoredRows(place.path, place.offset + stream.tell(), dtype, shape)
    if rows.end > place.path.stat().st_size:
        raise DataError("cut short", where=where)
    return rows


def _check_header(shape: tuple[int, ...], dtype: np.dtype[Any], stored: int, where: str) -> None:
    """Refuse a header that states a size other than the stored one.

    Raises:
        DataError: Python objects, an impossible shape, or another number of bytes than shape and type take.
    """
    if dtype.hasobject:
        raise DataError(
            "an array of Python objects",
            where=where,
            hint="Store numbers of one type, or texts as numpy.array([...], dtype=str).",
        )
    if min(shape, default=0) < 0:
        raise DataError("an impossible shape", where=where, got=shape)
    expected = math.prod(shape) * dtype.itemsize
    if expected != stored:
        raise DataError(
            "the stored bytes do not fit shape and type",
            where=where,
            got=f"{stored} bytes",
            expected=f"{expected} for {dtype} of shape {shape}",
        )


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Return the offset of a stored member's bytes: behind its local header, of variable length."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        name_bytes, extra_bytes = struct.unpack("<26x2H", stream.read(_LOCAL_HEADER_BYTES))
    return int(member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
