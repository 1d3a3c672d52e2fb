"""Limits on the expanded size of compressed data, checked before anything is expanded.

Sizes that a file states are checked against its own size: a small file cannot request much memory.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from onnx_admm.errors import DataError, reading

FREE_BYTES = 64 * 2**20
"""Size that any file may expand to, in bytes."""

RATIO = 100
"""Expanded bytes for each stored byte above that: real samples compress far less."""

_ENCRYPTED = 0x1  # bit of a member's flags
_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def inflated_limit(stored_bytes: int) -> int:
    """Return the most bytes that a file of ``stored_bytes`` may expand to."""
    return max(FREE_BYTES, RATIO * stored_bytes)


def check_inflated(inflated: int, stored: int, where: object) -> None:
    """Refuse content whose expanded size is out of proportion to its stored size.

    Args:
        inflated: bytes in memory, as the file states them.
        stored: bytes in the file.
        where: its name in errors.

    Raises:
        DataError: more than `inflated_limit`.
    """
    limit = inflated_limit(stored)
    if inflated > limit:
        raise DataError(
            "compressed data that would expand out of proportion to what is stored",
            where=where,
            got=f"{inflated} bytes from {stored}",
            expected=f"at most {limit}",
            hint="Store it without compression (np.savez), so that it can be read in parts.",
        )


def open_zip(path: Path, kind: str = "zip") -> zipfile.ZipFile:
    """Open a zip and check how its members are stored, without reading any.

    Args:
        path: the file.
        kind: its name in errors.

    Raises:
        DataError: no zip, or a member that is encrypted or stored by another method than deflate.
    """
    with reading(path, DataError, f"not a readable {kind}"):
        archive = zipfile.ZipFile(path)
        for member in archive.infolist():
            if member.flag_bits & _ENCRYPTED or member.compress_type not in _READ_METHODS:
                archive.close()
                raise DataError(
                    "a member of the archive that is encrypted, or compressed by another method than deflate",
                    where=f"{path}: {member.filename}",
                )
        return archive
