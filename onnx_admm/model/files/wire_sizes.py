"""Bytes of numbers and tensors in the protobuf wire format.

Source: https://protobuf.dev/programming-guides/encoding: a varint takes one byte for every 7 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEAST_IR_VERSION = 4
"""First IR version where an initializer need not be a graph input (such an input cannot be folded)."""

_VARINT_KINDS = "iub"
_NIBBLES = ("int4", "uint4")


def varint_bytes(value: int) -> int:
    """Return the bytes of an integer as a protobuf varint; a negative one takes ten."""
    return 10 if value < 0 else max(1, -(-value.bit_length() // 7))


def prefers_varints(array: Array) -> bool:
    """Return whether an integer tensor is smaller in its typed field (varints) than in ``raw_data``.

    Bytes never are: a varint takes at least one.
    """
    if array.dtype.kind not in _VARINT_KINDS or array.itemsize == 1 or not 0 < array.size <= 1 << 16:
        return False
    return _varints_bytes(array) < _raw_bytes(array)


def content_bytes(array: Array) -> int:
    """Return the bytes of a tensor's content in the smaller of the two forms."""
    if prefers_varints(array):
        return _varints_bytes(array)
    return _raw_bytes(array)


def _varints_bytes(array: Array) -> int:
    """Return the bytes of all elements as varints: one, and one more from each power of 128 on."""
    values = array.astype(np.uint64)  # a negative integer wraps round to one of 64 bits, which takes ten
    steps = [np.count_nonzero(values >= np.uint64(1 << bits)) for bits in range(7, 64, 7)]
    return array.size + sum(map(int, steps))


def _raw_bytes(array: Array) -> int:
    return (array.size + 1) // 2 if array.dtype.name in _NIBBLES else array.nbytes
