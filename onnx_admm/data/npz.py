"""Arrays by name: ``.npz`` archives and folders of ``.npy`` files, mapped from disk where they can be."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.errors import DataError

_LOCAL_HEADER_BYTES = 30


def read_npz(path: Path) -> dict[str, Array]:
    """Array by member name; members stored uncompressed are mapped, the others decompressed.

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


def read_npy_folder(folder: Path) -> dict[str, Array]:
    """Array by file name of every ``.npy`` in a folder, mapped.

    Raises:
        DataError: damaged, or with pickled objects.
    """
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"not a readable .npy file ({error})", where=path) from error
    return arrays


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            if version[0] == 1:
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            if dtype.hasobject:
                raise DataError("an array of Python objects", where=f"{path}: {member.filename}")
            if member.compress_type != zipfile.ZIP_STORED or 0 in shape or not shape:
                stream.seek(0)
                array: Array = np.lib.format.read_array(stream, allow_pickle=False)
                return array
            offset = _data_offset(path, member) + stream.tell()
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except MemoryError as error:
        raise DataError(
            "too large for memory; np.savez maps arrays, np.savez_compressed cannot", where=path
        ) from error
    except ValueError as error:
        raise DataError(f"not a readable array ({error})", where=f"{path}: {member.filename}") from error


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose extra field has its own length."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        name_bytes, extra_bytes = struct.unpack("<26x2H", stream.read(_LOCAL_HEADER_BYTES))
    return int(member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
