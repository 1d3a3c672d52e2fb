"""Second scales of a weight, on its columns: powers of two, so that bytes reach large and small columns.

    weight[i, j] = code[i, j] * 2^shift[j] * scale[i],   |code| <= 127,  0 <= shift <= 4

Columns are the indices of one axis beside the one of the output channels, as a rule the inputs of a layer. A
column of small weights meets large inputs, and with a scale for each row alone its codes would be few. The
product of a code and a power of two is a code of 11 bits, so the grid is found again as one of them is.

Source: equalisation of ranges across layers in Nagel et al., Data-free quantization through weight
equalization and bias correction, ICCV 2019 (arXiv 1906.04721), section 4.1; here within one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array

LARGEST_SHIFT = 4
"""With codes up to 127 it gives the largest magnitude of a fine code, 2,032 of 2,047."""

_CODE_BITS = 7
_ROUNDS = 3


def column_axis(shape: tuple[int, ...], row_axis: int | None) -> int | None:
    """Return the longest axis beside that of the rows; None where it has one index, or there are no rows."""
    others = [axis for axis, extent in enumerate(shape) if axis != row_axis and extent > 1]
    if row_axis is None or shape[row_axis] < 2 or not others:
        return None
    return max(others, key=lambda axis: shape[axis])


@dataclass(frozen=True)
class Columns:
    """Scales of a weight's columns.

    Attributes:
        factors: powers of two, fp32, in a shape that broadcasts over the columns.
        error: estimate of the squared error of bytes with them, as a share of that without.
        least_error: the same of the layer's outputs, where the inputs of small columns are as much larger.
    """

    factors: npt.NDArray[np.float32]
    error: float
    least_error: float


def balanced_columns(values: Array, row_axis: int, axis: int) -> Columns:
    """Return scales that bring columns to about the same magnitude.

    Largest magnitudes of rows and columns are brought to 1 in turns. The error of a byte is in proportion to
    the largest magnitude of its row in units of its column.

    Args:
        values: finite, any shape.
        row_axis: axis of the rows, which have a scale each.
        axis: axis of the columns.
    """
    others = tuple(i for i in range(values.ndim) if i not in (row_axis, axis))
    peaks = np.maximum(values.max(axis=others), -values.min(axis=others)).astype(np.float64)
    peaks = peaks if row_axis < axis else peaks.T
    live = peaks.max(axis=0) > 0
    columns = np.ones(peaks.shape[1])
    for _ in range(_ROUNDS):
        rows = (peaks / columns).max(axis=1, keepdims=True)
        found = np.divide(peaks, rows, out=np.zeros_like(peaks), where=rows > 0).max(axis=0)
        columns = np.where(live, np.maximum(found, np.finfo(float).tiny), 1.0)
    exponents = np.rint(np.log2(columns)).astype(np.int64)
    shifts = exponents - exponents[live].max(initial=-(1 << 20)) + LARGEST_SHIFT
    shifts = np.where(live, np.maximum(shifts, 0), 0)
    shifts = np.where(live, shifts - shifts[live].min(initial=LARGEST_SHIFT), 0)
    factors = np.exp2(shifts)
    squares = np.square(factors[live]) if live.any() else np.ones(1)
    before = float(np.square(peaks.max(axis=1)).sum())
    ratio = float(np.square((peaks / factors).max(axis=1)).sum()) / before if before > 0 else 1.0
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return Columns(
        factors.astype(np.float32).reshape(shape),
        error=ratio * float(squares.mean()) if before > 0 else 1.0,
        least_error=ratio / float((1 / squares).mean()),
    )


@dataclass(frozen=True)
class SplitCodes:
    """A weight as ``codes * columns * rows``.

    Attributes:
        codes: int8, shape of the weight.
        columns: powers of two, fp32, in a shape that broadcasts over the columns.
        rows: scales, fp32, in a shape that broadcasts over the rows.
    """

    codes: npt.NDArray[np.int8]
    columns: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]


def split_codes(
    codes: npt.NDArray[np.integer], rows: npt.NDArray[np.float32], row_axis: int
) -> SplitCodes | None:
    """Return bytes and scales on both axes for a grid of more bits; None where it has no such form.

    A row whose codes have a common power of two was found with a larger scale. It gets the smaller one back
    where a column needs that.

    Args:
        codes: codes of up to 12 bits.
        rows: their scales, in a shape that broadcasts over ``row_axis``.
        row_axis: axis of the rows.
    """
    axis = column_axis(codes.shape, row_axis)
    if axis is None:
        return None
    found = codes.astype(np.int64)
    beside_rows, beside_columns = (
        tuple(i for i in range(codes.ndim) if i != each) for each in (row_axis, axis)
    )
    factors = np.ones_like(rows)
    for _ in range(LARGEST_SHIFT + 1):
        most = np.abs(found).max(axis=beside_columns, keepdims=True)
        shifts = np.maximum(np.frexp(most)[1] - _CODE_BITS, 0)
        if shifts.max() > LARGEST_SHIFT:
            return None
        missing = np.where(found == 0, 0, shifts - np.frexp(found & -found)[1] + 1)
        short = np.maximum(missing.max(axis=beside_rows, keepdims=True), 0)
        if not short.any():
            columns = np.exp2(shifts).astype(np.float32)
            return SplitCodes((found >> shifts).astype(np.int8), columns, rows / factors)
        found <<= short
        factors *= np.exp2(short).astype(np.float32)
    return None
