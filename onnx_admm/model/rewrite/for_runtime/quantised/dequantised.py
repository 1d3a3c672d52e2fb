"""DequantizeLinear nodes: what they dequantise, with which scales, for which readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.rewrite.for_runtime.expressions import producer

_CODES = {
    ir.DataType.INT8: 8,
    ir.DataType.UINT8: 8,
    ir.DataType.INT4: 4,
    ir.DataType.UINT4: 4,
    ir.DataType.INT2: 2,
    ir.DataType.UINT2: 2,
}


@dataclass(frozen=True, slots=True)
class Dequantised:
    """One DequantizeLinear.

    Attributes:
        node: the node.
        codes: its first input.
        dtype: element type of the codes; None where unknown.
        shape: shape of stored codes; None where they are computed.
    """

    node: ir.Node
    codes: ir.Value
    dtype: ir.DataType | None
    shape: tuple[int, ...] | None

    @property
    def bits(self) -> int | None:
        """Bits of a code; None where the type is unknown, or none of 8 bits and fewer."""
        return None if self.dtype is None else _CODES.get(self.dtype)

    @property
    def is_stored(self) -> bool:
        """Whether the codes are a stored constant."""
        return self.shape is not None

    @property
    def scale(self) -> ir.Value | None:
        """Its scales."""
        return self.node.inputs[1]

    @property
    def zero_point(self) -> ir.Value | None:
        """Its zero points; None where they are left out."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def block(self) -> int:
        """Codes that share one scale along the axis; 0 where scales are not blocked."""
        return self.node.attributes.get_int("block_size", 0)

    @property
    def axis(self) -> int:
        """Axis of the scales of channels or blocks."""
        return self.node.attributes.get_int("axis", 1)

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale is all."""
        tensor = None if self.scale is None else constant_tensor(self.scale)
        return tensor is not None and tensor.size == 1 and not self.block


def dequantised(
    value: ir.Value | None, dtypes: Mapping[ir.Value, ir.DataType] | None = None
) -> Dequantised | None:
    """Return the DequantizeLinear that computes a value; None where another node does.

    Args:
        value: the value.
        dtypes: inferred element types, for codes that are computed.
    """
    node = producer(value, "DequantizeLinear")
    if node is None or node.inputs[0] is None or len(node.inputs) < 2:
        return None
    codes = node.inputs[0]
    tensor = constant_tensor(codes)
    dtype = codes.dtype if tensor is None else tensor.dtype
    if dtype is None and dtypes is not None:
        dtype = dtypes.get(codes)
    return Dequantised(node, codes, dtype, None if tensor is None else tuple(tensor.shape.numpy()))


def stored_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the content of a constant; None for no value, and for what is computed or may be overridden."""
    tensor = None if value is None else constant_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())
