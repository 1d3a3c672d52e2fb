"""Kept weights of one large layer, behind a decoder that needs little memory when a runtime folds it.

The same code as ``sparse_coder``'s, with another layout: there the bytes of the decoder matter, here the
memory of a runtime while it decodes. A bit takes one byte once unpacked (and not eight), and a number four:

    bits  = (bytes >> 0..7) mod 2,  of the unary bitmap and of W = low_bits + code_bits planes
    v     = (1, 2, .. 2^(low_bits-1)) planes,   code = (1, 2, .. 2^(code_bits-1)) planes,   s = 2^low_bits
    p_i   = s t_i - (v_0 + ... + v_i),   t = TopK(bitmap)
    row   = zeros; row[p_i] = codebook[code_i]

Standard operators (opset 11) whose shapes follow from their constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.encoding.coders.bits import Ints, gap_sums, pack_bits, powers, split_gaps
from onnx_admm.encoding.coders.gap_coder import GapCoder
from onnx_admm.encoding.coders.unpack import (
    INT32,
    Array,
    EncodedTensor,
    flatten,
    narrowest,
    scattered,
    unpack,
)
from onnx_admm.model.rewrite.fragment import Fragment

_BYTE = 8

MOST_ELEMENTS = 1 << 29
"""Elements up to which positions and their intermediates fit 32 bits."""


@dataclass(frozen=True)
class LargeSparseCoder(GapCoder):
    """A decoder of one weight's kept entries."""

    def largest_step(self, kept: int) -> int:
        """Return the bytes of the largest intermediate array, without the dense weight."""
        return 4 * kept * (self.low_bits + self.code_bits)

    def emit(self, fragment: Fragment, member: EncodedTensor) -> str:
        """Append the decoder; return the name of the weight."""
        positions = np.flatnonzero(member.units)
        codes = np.searchsorted(np.array(self.levels, np.float32), member.units[positions])
        ones, lows = split_gaps(positions, self.low_bits)
        where = _positions(fragment, ones, lows, self.low_bits)
        levels = narrowest(np.array(self.levels, np.float32))
        numbers = emit_numbers(fragment, codes, self.code_bits)
        values = fragment.add("Gather", fragment.constant(levels), numbers)
        length = len(member.units)
        row = scattered(fragment, length, where, values, levels.dtype)
        return unpack(fragment, row, [member], [length], dtype=levels.dtype)[member.weight.name]


def emit_positions(fragment: Fragment, positions: Ints, low_bits: int) -> str:
    """Append the decoder of rising positions alone; return their name, int32."""
    return _positions(fragment, *split_gaps(positions, low_bits), low_bits)


def _positions(fragment: Fragment, ones: Ints, lows: Ints, low_bits: int) -> str:
    """Return the name of ``s t_i - (v_0 + ... + v_i)``, int32."""
    where = _ones(fragment, ones)
    if not low_bits:
        return where
    step = fragment.constant(1 << low_bits, np.int32)
    sums = fragment.add("CumSum", emit_numbers(fragment, lows, low_bits), fragment.constant(0, np.int32))
    return fragment.add("Sub", fragment.add("Mul", where, step), sums)


def emit_numbers(fragment: Fragment, numbers: Ints, width: int) -> str:
    """Append the decoder of numbers of ``width`` bits; return their name, int32.

    Bits stay bytes until they are multiplied by their place values.
    """
    count = len(numbers)
    planes = np.stack([pack_bits(numbers >> place & 1) for place in range(width)])
    whole = 8 * planes.shape[1]
    bits = _bits(fragment, planes[:, :, None])
    square = fragment.add("Reshape", bits, fragment.constant([width, whole], np.int64))
    if width <= _BYTE:
        row = fragment.add("MatMulInteger", fragment.constant(powers(2, width), np.uint8), square)
    else:
        places = fragment.constant(powers(2, width), np.int32)
        row = fragment.add("MatMul", places, fragment.add("Cast", square, to=INT32))
    if whole == count:
        return row
    bounds = (fragment.constant([0], np.int64), fragment.constant([count], np.int64))
    return fragment.add("Slice", row, *bounds)


def _ones(fragment: Fragment, ones: Ints) -> str:
    """Return the name of the positions of the ones in the unary bitmap, int32."""
    unary = np.zeros(int(ones[-1]) + 1, np.uint8)
    unary[ones] = 1
    blob = pack_bits(unary)
    bits = flatten(fragment, _bits(fragment, blob[:, None]), 8 * len(blob))
    bitmap = fragment.add("Cast", bits, to=INT32)
    _, where = fragment.add_many("TopK", [bitmap, fragment.constant([len(ones)], np.int64)], 2)
    return fragment.add("Cast", where, to=INT32)


def _bits(fragment: Fragment, blob: Array) -> str:
    """Return the name of the bits of bytes, lowest first, along a last axis (length 1 in the bytes)."""
    places = fragment.constant(np.arange(8), np.uint8)
    shifted = fragment.add("BitShift", fragment.constant(blob), places, direction="RIGHT")
    return fragment.add("Mod", shifted, fragment.constant(2, np.uint8))


def best_low_bits(positions: Ints) -> tuple[int, int]:
    """Return the Rice parameter that takes the fewest bits for these rising positions, and the bits."""
    count = len(positions)
    sizes = [count * low_bits + gap_sum + 1 for low_bits, gap_sum in enumerate(gap_sums(positions))]
    best = int(np.argmin(sizes))
    return best, int(sizes[best])
