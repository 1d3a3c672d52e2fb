"""Arrays by name: ``.npz`` archives and folders of ``.npy`` files, left on disk where they can be."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.data.stored_rows import StoredRows
from onnx_admm.errors import DataError

_LOCAL_HEADER_BYTES = 30


def read_npz(path: Path) -> dict[str, Array | StoredRows]:
    """Return arrays by member name; members stored uncompressed stay in the file.

    Raises:
        DataError: not an npz, damaged, or with pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {
                member.filename.removesuffix(".npy"): _member(path, archive, member) for member in members
            }
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise DataError(f"not a readable .npz file ({error})", where=path) from error


def read_npy_folder(folder: Path) -> dict[str, Array | StoredRows]:
    """Return arrays by file name of every ``.npy`` in a folder; they stay in their files.

    Raises:
        DataError: damaged, or with pickled objects.
    """
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            with path.open("rb") as stream:
                arrays[path.stem] = _array(stream, path, 0, str(path))
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"not a readable .npy file ({error})", where=path) from error
    return arrays


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array | StoredRows:
    stored = member.compress_type == zipfile.ZIP_STORED
    try:
        with archive.open(member) as stream:
            place = _data_offset(path, member) if stored else None
            return _array(stream, path, place, f"{path}: {member.filename}")
    except MemoryError as error:
        raise DataError(
            "too large for memory; np.savez leaves arrays readable in parts, np.savez_compressed does not",
            where=path,
        ) from error
    except ValueError as error:
        raise DataError(f"not a readable array ({error})", where=f"{path}: {member.filename}") from error


def _array(stream: IO[bytes], path: Path, place: int | None, where: str) -> Array | StoredRows:
    """Read a ``.npy`` stream, or its header alone where its rows can be read from the file.

    Args:
        stream: at its start.
        path: the file.
        place: where the stream starts in it; None where it is compressed.
        where: how errors name it.
    """
    version = np.lib.format.read_magic(stream)
    if version[0] == 1:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise DataError("an array of Python objects", where=where)
    if place is None or fortran or 0 in shape or not shape:
        stream.seek(0)
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array
    rows = StoredRows(path, place + stream.tell(), dtype, shape)
    if rows.end > path.stat().st_size:
        raise ValueError("cut short")
    return rows


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose extra field has its own length."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        name_bytes, extra_bytes = struct.unpack("<26x2H", stream.read(_LOCAL_HEADER_BYTES))
    return int(member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
