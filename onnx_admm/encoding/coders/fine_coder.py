"""Weights on grids of more than 8 bits: bytes with scales on both axes, or codes of 10 or 12 bits.

    code = byte * 2^shift of its column,  weight = code * scale
    code = r * high + low,  weight = code * scale,  r = 4 (10 bits) or 16 (12 bits)

The high bits are bytes, the low ones packed digits. Between bytes and half floats: a layer that 255 levels
change by a decibel takes scales on both axes or 10 bits, and not 16. Standard operators (opset 10) that ONNX
Runtime folds at load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.column_shifts import SplitCodes, split_codes
from onnx_admm.encoding.coders.dense_coder import DenseCoder
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.encoding.coders.unpack import FLOAT, EncodedTensor, stored_floats, to_type
from onnx_admm.model.rewrite.fragment import Fragment

FINE_BITS = (10, 12)
_HIGH_BITS = 8


@dataclass(frozen=True)
class FineCoder:
    """Coder of one weight whose codes have more than 8 bits.

    Attributes:
        bits: bits of a code, sign included: 10 or 12.
    """

    bits: int

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"{self.bits}-bit codes"

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append the decoder; return the name of the weight."""
        grid = fine_grid_of(weight)
        low_bits = self.bits - _HIGH_BITS
        radix, codes = 1 << low_bits, grid.codes.reshape(weight.shape)
        digits = Weight(weight.name, (codes & (radix - 1)).astype(np.float32))
        coder = DenseCoder(tuple(map(float, range(radix))))
        low = coder.emit(fragment, [EncodedTensor(digits, digits.flat)])[weight.name]
        high = fragment.add("Cast", fragment.constant(codes >> low_bits, np.int8), to=FLOAT)
        units = fragment.add("Add", fragment.add("Mul", high, fragment.constant(radix, np.float32)), low)
        dense = fragment.add("Mul", units, stored_floats(fragment, grid.scale))
        return to_type(fragment, dense, weight.dtype)


@dataclass(frozen=True)
class ShiftedByteCoder:
    """``weight = Cast(int8) * columns * rows``: scales on both axes, powers of two on the columns."""

    label: ClassVar[str] = "bytes, scales on both axes"
    bits: ClassVar[int] = 8

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append Cast and two Mul (opset 7); return the name of the weight.

        Raises:
            ValueError: the weight has no such grid.
        """
        split = _split(fine_grid_of(weight))
        if split is None:
            raise ValueError(f"{weight.name} has no scales on both axes")
        units = fragment.add("Cast", fragment.constant(split.codes, np.int8), to=FLOAT)
        shifted = fragment.add("Mul", units, stored_floats(fragment, split.columns))
        dense = fragment.add("Mul", shifted, stored_floats(fragment, split.rows))
        return to_type(fragment, dense, weight.dtype)


def _split(grid: Grid) -> SplitCodes | None:
    rows = [axis for axis, extent in enumerate(grid.scale.shape) if extent > 1]
    return split_codes(grid.codes, grid.scale, rows[0]) if rows else None


def fine_coder(weight: Weight) -> FineCoder | ShiftedByteCoder | None:
    """Return the coder of fewest bits that stores the weight exactly; None where there is none."""
    if (
        not weight.is_exact or weight.dtype.itemsize <= 2
    ):  # half floats cannot represent products of such codes
        return None
    grid = weight.fine_grid
    if grid is None:
        return None
    if _split(grid) is not None:
        return ShiftedByteCoder()
    return FineCoder(next(bits for bits in FINE_BITS if grid.code_bits < bits))


def fine_grid_of(weight: Weight) -> Grid:
    """Return the weight's grid of more than 8 bits."""
    if weight.fine_grid is None:
        raise ValueError(f"{weight.name} lies on no grid of 12 bits or fewer")
    return weight.fine_grid
