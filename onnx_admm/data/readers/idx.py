"""The idx format of MNIST: big-endian header, then raw values; plain or gzipped.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.
"""

from __future__ import annotations

import gzip
import math
import re
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.data.readers.inflation import check_inflated
from onnx_admm.errors import DataError, reading

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 32  # numpy 1.26 has no more
_IMAGES = re.compile(r"^(?P<part>.*?)[-_.]?images[-.]idx3-ubyte(\.gz)?$")


def is_idx_images(path: Path) -> bool:
    """Return whether the file name is that of idx images (``train-images-idx3-ubyte.gz``)."""
    return _IMAGES.match(path.name) is not None


def idx_part(path: Path) -> str:
    """Return the text before ``images`` in the file name: ``train``, ``t10k``."""
    match = _IMAGES.match(path.name)
    return match.group("part") if match else ""


def labels_file(images: Path) -> Path | None:
    """Return the labels file of an images file, gzipped or not; None if there is none."""
    name = re.sub(r"images([-.])idx3", r"labels\1idx1", images.name).removesuffix(".gz")
    found = [images.with_name(name + suffix) for suffix in ("", ".gz")]
    return next((path for path in found if path.is_file()), None)


def read_idx(path: Path) -> Array:
    """Return the array in an idx file, in native byte order.

    Raises:
        DataError: not idx, truncated, or with trailing bytes.
    """
    with (
        reading(path, DataError, "cannot be read"),
        gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream,
    ):
        return _read(stream, path)


def _read(stream: BufferedIOBase, path: Path) -> Array:
    """Read the bytes that the header states, and one more to detect trailing bytes."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise DataError("not an idx file", where=path)
    dtype, rank = np.dtype(_DTYPES[magic[2]]), magic[3]
    if rank > _MOST_AXES:
        raise DataError(
            "an idx file of too many axes", where=path, got=rank, expected=f"at most {_MOST_AXES}"
        )
    header = stream.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError("an idx file cut short", where=path)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    expected = math.prod(shape) * dtype.itemsize
    check_inflated(expected, path.stat().st_size, path)
    data = stream.read(expected + 1)
    if len(data) != expected:
        raise DataError(
            "idx data of the wrong length",
            where=path,
            got="more" if len(data) > expected else len(data),
            expected=f"{expected} bytes",
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
