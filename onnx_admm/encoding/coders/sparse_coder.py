"""Kept weights alone: Rice-coded gaps and packed codes of any number of layers, behind one decoder.

Decoded by standard operators (opset 11) that ONNX Runtime folds at load. Folding needs shapes that follow
from constants; so the ones of the unary bitmap are found by TopK (equal values come in order of their index)
and not by NonZero:

    bits  = (blob / 2^j) mod 2,  cut into the unary bitmap, remainders v and codes
    p_i   = s t_i - (v_0 + ... + v_i),  t = TopK(bitmap), s = 2^low_bits
    row   = zeros; row[p_i] = codebook[code_i]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.bits import low_planes, pack_bits, powers, rice_bits, split_gaps
from onnx_admm.encoding.coders.gap_coder import GapCoder
from onnx_admm.encoding.coders.large_sparse_coder import emit_numbers, emit_positions
from onnx_admm.encoding.coders.unpack import (
    INT64,
    Array,
    EncodedTensor,
    flatten,
    narrowest,
    scattered,
    split_outputs,
    unpack,
)
from onnx_admm.model.rewrite.fragment import Fragment

_MANY = 1 << 16
"""Elements from which on decoding memory matters more than the bytes of the decoder."""

_FEW_PLANES = 2
"""Planes up to which a number is assembled by additions, above by one MatMul."""


@dataclass(frozen=True)
class SparseCoder(GapCoder):
    """One decoder of kept weights."""

    def data_bits(self, member: EncodedTensor) -> int:
        """Return the bits of the codes."""
        return int(np.count_nonzero(member.units)) * self.code_bits

    def index_bits(self, member: EncodedTensor) -> int:
        """Return the bits of the positions of kept weights."""
        return rice_bits(member.weight.positions, self.low_bits)

    def emit(
        self,
        fragment: Fragment,
        members: Sequence[EncodedTensor],
        head: tuple[str, Sequence[EncodedTensor]] | None = None,
    ) -> dict[str, str]:
        """Append the decoder; return value names by weight name.

        Args:
            fragment: receives the nodes.
            members: weights, one after the other in the row.
            head: name of a row of fp32 values placed before them, and its owners.
        """
        units = np.concatenate([member.units for member in members])
        positions = np.flatnonzero(units)
        codes = np.searchsorted(np.array(self.levels, np.float32), units[positions])
        if head is None and len(units) >= _MANY:
            return self._emit_narrow(fragment, members, positions, codes)
        if head is None:
            zeros = fragment.add("ConstantOfShape", fragment.constant([len(units)], np.int64))
        else:
            zeros = fragment.add("Pad", head[0], fragment.constant([0, len(units)], np.int64))
            members = [*head[1], *members]
            positions = positions + sum(len(member.units) for member in head[1])
        where, which = self._fields(fragment, positions, codes)
        values = fragment.add("Gather", fragment.constant(self.levels, np.float32), which)
        row = fragment.add("ScatterElements", zeros, where, values)
        return unpack(fragment, row, members, [len(member.units) for member in members])

    def _emit_narrow(
        self, fragment: Fragment, members: Sequence[EncodedTensor], positions: Array, codes: Array
    ) -> dict[str, str]:
        """Append the decoder with narrow types (see ``large_sparse_coder``), a few bytes larger."""
        lengths = [len(member.units) for member in members]
        levels = narrowest(np.array(self.levels, np.float32))
        where = emit_positions(fragment, positions, self.low_bits)
        values = fragment.add(
            "Gather", fragment.constant(levels), emit_numbers(fragment, codes, self.code_bits)
        )
        row = scattered(fragment, sum(lengths), where, values, levels.dtype)
        return unpack(fragment, row, members, lengths, dtype=levels.dtype)

    def _fields(self, fragment: Fragment, positions: Array, codes: Array) -> tuple[str, str]:
        """Return the names of the decoded positions and codes."""
        count, low_bits = len(positions), self.low_bits
        ones, lows = split_gaps(positions, low_bits)
        tail = [*low_planes(lows, low_bits), *low_planes(codes, self.code_bits)]
        unary_bits = int(ones[-1]) + 1
        unary_bits += -(unary_bits + count * len(tail)) % 8
        unary = np.zeros(unary_bits, np.uint8)
        unary[ones] = 1
        row = self._bits(fragment, pack_bits(np.concatenate([unary, *tail])))
        shares = [unary_bits, *_shares(count, low_bits), *_shares(count, self.code_bits)]
        bitmap, *planes = split_outputs(fragment, row, shares)
        _, where = fragment.add_many("TopK", [bitmap, fragment.constant([count], np.int64)], 2)
        if low_bits:
            low_planes_count = len(_shares(count, low_bits))
            low = _number(fragment, planes[:low_planes_count], low_bits, count)
            planes = planes[low_planes_count:]
            sums = fragment.add("CumSum", low, fragment.constant(0, np.int64))
            where = fragment.add("Mul", where, fragment.constant(1 << low_bits, np.int64))
            where = fragment.add("Sub", where, sums)
        return where, _number(fragment, planes, self.code_bits, count)

    @staticmethod
    def _bits(fragment: Fragment, blob: npt.NDArray[np.uint8]) -> str:
        words = fragment.add("Cast", fragment.constant(blob[:, None]), to=INT64)
        shifted = fragment.add("Div", words, fragment.constant(powers(2, 8)))
        return flatten(fragment, fragment.add("Mod", shifted, fragment.constant(2, np.int64)), 8 * len(blob))


def _shares(count: int, width: int) -> list[int]:
    """Return the split of a number's planes: one by one, or all at once for a MatMul."""
    return [count] * width if width <= _FEW_PLANES else [count * width]


def _number(fragment: Fragment, planes: Sequence[str], width: int, count: int) -> str:
    """Return the name of numbers of ``width`` bits from their planes, lowest first."""
    if width > _FEW_PLANES:
        square = fragment.add("Reshape", planes[0], fragment.constant([width, count], np.int64))
        return fragment.add("MatMul", fragment.constant(powers(2, width)), square)
    number = planes[-1]
    for plane in reversed(planes[:-1]):
        number = fragment.add("Add", fragment.add("Add", number, number), plane)
    return number
