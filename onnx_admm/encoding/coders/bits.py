"""Packing of bits and digits into bytes, and of gaps between kept weights into bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

MOST_LOW_BITS = 16

_PIECE = 1 << 20
"""Positions whose gaps are computed at a time."""


def pack_bits(bits: Array) -> npt.NDArray[np.uint8]:
    """Pack eight bits to a byte, the first in the lowest place; the last byte is filled with zeros."""
    return np.packbits(np.asarray(bits, np.uint8), bitorder="little")


def digits_per_word(radix: int, word_bits: int) -> int:
    """Return the most digits of a radix that fit a word: the largest g with ``radix^g <= 2^word_bits``."""
    count = 0
    while radix ** (count + 1) <= 1 << word_bits:
        count += 1
    return count


def pack_digits(digits: npt.NDArray[np.integer[Any]], radix: int, word_bits: int) -> Array:
    """Pack digits into words of 8 or 16 bits, the first in the lowest place; zeros fill the last word."""
    count = digits_per_word(radix, word_bits)
    padded = np.append(digits, np.zeros(-len(digits) % count, digits.dtype)).reshape(-1, count)
    words = np.zeros(len(padded), np.int32)
    for place in range(count):
        words += padded[:, place].astype(np.int32) * radix**place
    return words.astype(np.uint8 if word_bits == 8 else np.uint16)


def powers(radix: int, count: int) -> Ints:
    """Return ``radix^0 ... radix^(count-1)``."""
    return np.array([radix**place for place in range(count)], np.int64)


def split_gaps(positions: Ints, low_bits: int) -> tuple[Ints, Ints]:
    """Return the Rice code of rising positions: quotients and remainders of the gaps.

    With ``s = 2^low_bits`` and gap ``d_i = p_i - p_{i-1} = s k_i - v_i``, ``0 <= v_i < s``, so that ``p_i = s
    t_i - (v_0 + ... + v_i)`` where ``t_i = k_0 + ... + k_i`` (and ``p_{-1} = 0``). In this form decoding
    needs no other constant than s.

    Args:
        positions: rising, from 0.
        low_bits: bits of a remainder.

    Returns:
        The t_i, positions of the ones in the unary bitmap, and the v_i.

    Source: Rice, JPL 79-22 (1979); Golomb, IEEE Trans. IT 12 (1966).
    """
    step = 1 << low_bits
    gaps = np.diff(positions, prepend=0)
    quotients = -(-gaps // step)
    return np.cumsum(quotients), quotients * step - gaps


def rice_bits(positions: Ints, low_bits: int) -> int:
    """Return the bits of the Rice code: a remainder for each position, and the unary bitmap."""
    if len(positions) == 0:
        return 0
    quotients = sum(int((-(-gaps // (1 << low_bits))).sum()) for gaps in _gaps(positions))
    return len(positions) * low_bits + quotients + 1


def gap_sums(positions: Ints) -> Iterator[int]:
    """Yield the last ``t``, the unary bitmap's length less one, for each Rice parameter from 0 up."""
    for low_bits in range(MOST_LOW_BITS + 1):
        yield sum(int((-(-gaps // (1 << low_bits))).sum()) for gaps in _gaps(positions))


def _gaps(positions: Ints) -> Iterator[Ints]:
    """Yield the gaps between rising positions, some at a time: a large weight has many."""
    for start in range(0, len(positions), _PIECE):
        before = positions[start - 1] if start else 0
        yield np.diff(positions[start : start + _PIECE], prepend=before)


def low_planes(values: Ints, width: int) -> list[Array]:
    """Return bit planes of unsigned integers, lowest first."""
    return [(values >> place) & 1 for place in range(width)]
