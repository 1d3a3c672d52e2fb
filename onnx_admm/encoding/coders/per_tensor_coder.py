"""Weights stored one by one: all zeros, codes of 8 to 12 bits, half floats, or kept values unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.encoding_report import TensorEncoding, stored_row
from onnx_admm.encoding.coders.fine_coder import FineCoder, ShiftedByteCoder, fine_coder
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.encoding.coders.kept_values_coder import KeptValuesCoder, kept_values_coder
from onnx_admm.encoding.coders.unpack import CAST_TO, FLOAT, holds_half, stored_floats, to_type
from onnx_admm.model.rewrite.fragment import Fragment


@dataclass(frozen=True)
class ZeroCoder:
    """A weight of zeros: its shape alone."""

    label: ClassVar[str] = "zeros"
    bits: ClassVar[int] = 0

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append a ConstantOfShape (opset 9); return its output's name."""
        zeros = fragment.add("ConstantOfShape", fragment.constant(weight.shape, np.int64))
        return to_type(fragment, zeros, weight.dtype)


@dataclass(frozen=True)
class ByteCoder:
    """``weight = Cast(int8) * scale``: folds at load everywhere, where a DequantizeLinear would not."""

    label: ClassVar[str] = "bytes"
    bits: ClassVar[int] = 8

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append Cast and Mul (opset 7), with as many scales as needed; return the output's name."""
        grid = grid_of(weight)
        codes = fragment.constant(grid.codes.reshape(weight.shape), np.int8)
        units = fragment.add("Cast", codes, to=FLOAT)
        dense = fragment.add("Mul", units, stored_floats(fragment, grid.scale))
        return to_type(fragment, dense, weight.dtype)


@dataclass(frozen=True)
class HalfCoder:
    """A weight of a wider type whose values are all fp16 values."""

    label: ClassVar[str] = "half floats"
    bits: ClassVar[int] = 16

    def emit(self, fragment: Fragment, weight: Weight) -> str:
        """Append a Cast (opset 6); return its output's name."""
        return fragment.add(
            "Cast", fragment.constant(weight.values, np.float16), to=CAST_TO[weight.dtype.name]
        )


PerTensorCoder = ZeroCoder | ByteCoder | ShiftedByteCoder | FineCoder | HalfCoder | KeptValuesCoder


def plain_row(coder: PerTensorCoder, weight: Weight) -> TensorEncoding:
    """Return the report of a weight in a form of its own."""
    if isinstance(coder, KeptValuesCoder):
        return coder.row(weight)
    return stored_row(weight, coder.label, coder.bits)


def per_tensor_coders(weight: Weight) -> tuple[PerTensorCoder, ...]:
    """Return the coders that store this weight exactly."""
    coders: list[PerTensorCoder] = []
    if weight.is_exact and len(weight.positions) == 0:
        coders.append(ZeroCoder())
    if weight.dtype == np.int8:  # codes of an integer kernel: the byte form is what they have
        return tuple(coders)
    if weight.is_exact and (weight.grid or weight.channel_grid) is not None:
        coders.append(ByteCoder())
    elif (fine := fine_coder(weight)) is not None:
        coders.append(fine)
    if weight.dtype.itemsize > 2 and holds_half(weight.values):
        coders.append(HalfCoder())
    if weight.levels is None and (kept := kept_values_coder(weight)) is not None:
        coders.append(kept)
    return tuple(coders)


def grid_of(weight: Weight) -> Grid:
    """Return the weight's grid, of one scale if possible."""
    grid = weight.grid or weight.channel_grid
    if grid is None:
        raise ValueError(f"{weight.name} lies on no grid")
    return grid
