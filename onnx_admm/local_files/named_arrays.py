"""Arrays under arbitrary names in one ``.npz`` file.

``np.savez`` takes the names as keyword arguments, so an array named ``file`` or ``allow_pickle`` collides
with its own parameters, and which names collide depends on the numpy release. ``np.load`` confuses ``x`` with
``x.npy``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_admm.errors import DataError

_SUFFIX = ".npy"
_LONGEST_MEMBER_BYTES = 0xFFFF


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an uncompressed ``.npz`` file that ``np.load`` and ``read_npz`` read, under exactly this path.

    Args:
        path: path of the file; replaced where it exists. No suffix is added.
        arrays: arrays of any shape and of any dtype but ``object``, by any name: empty, with slashes or dots,
            or one that is a parameter of ``np.savez``. Names are never used as paths.

    Raises:
        DataError: a name that a zip archive cannot hold (a NUL character, no valid Unicode, over 65,531
            bytes), or an array of Python objects.
    """
    members = {_member(name): array for name, array in arrays.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member, array in members.items():
            with archive.open(zipfile.ZipInfo(member), "w", force_zip64=True) as stream:
                try:
                    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
                except ValueError as error:
                    raise DataError(f"not an array of numbers or text ({error})", where=member) from error


def read_npz(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read what ``write_npz`` wrote: each array by its exact name, in the order of writing.

    For files that this program wrote. Users' data goes through ``onnx_admm.data``, which bounds and maps it.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                arrays[member.filename.removesuffix(_SUFFIX)] = np.lib.format.read_array(
                    stream, allow_pickle=False
                )
    return arrays


def _member(name: str) -> str:
    """Return the name of an array's member, as ``np.savez`` forms it."""
    try:
        fits = "\0" not in name and len((name + _SUFFIX).encode()) <= _LONGEST_MEMBER_BYTES
    except UnicodeEncodeError:
        fits = False
    if not fits:
        shown = name if len(name) <= 40 else name[:40] + "..."
        raise DataError("a name that an .npz file cannot hold", got=repr(shown))
    return name + _SUFFIX
