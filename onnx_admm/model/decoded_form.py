"""Shape and element type of what a decoder gives, told from its nodes without running them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor

Shape = tuple[int, ...]

_ARITHMETIC = frozenset({"Add", "BitShift", "Div", "Mod", "Mul", "Sub"})
_AS_THE_FIRST = frozenset({"Identity", "ScatterElements", "ScatterND"})
_OF_ANOTHER_SHAPE = frozenset({"CumSum", "Gather", "MatMul", "Pad", "Reshape", "Slice", "Split", "Transpose"})


def shape_of(value: ir.Value) -> Shape | None:
    """The shape of a constant, or of what one of the operators of decoders makes of constants."""
    tensor, node = constant_tensor(value), value.producer()
    if tensor is not None:
        return tuple(tensor.shape.numpy())
    if node is None:
        return None
    inputs = [operand for operand in node.inputs if operand is not None]
    match node.op_type:
        case "Reshape" | "ConstantOfShape":
            extents = _integers(inputs[-1])
            return extents if extents is not None and all(extent > 0 for extent in extents) else None
        case "Cast" | "DequantizeLinear":
            return shape_of(inputs[0])
        case "Gather":
            table, indices = shape_of(inputs[0]), shape_of(inputs[1])
            whole = None if table is None or indices is None else (*indices, *table[1:])
            return whole if node.attributes.get_int("axis", 0) == 0 else None
        case name if name in _AS_THE_FIRST:
            return shape_of(inputs[0])
        case name if name in _ARITHMETIC:
            shapes = [shape_of(operand) for operand in inputs]
            known = [shape for shape in shapes if shape is not None]
            return _broadcast(known) if len(known) == len(shapes) else None
        case _:
            return None


def dtype_of(value: ir.Value) -> np.dtype[np.generic] | None:
    """The element type, in the same way."""
    tensor, node = constant_tensor(value), value.producer()
    if tensor is not None:
        return tensor.dtype.numpy()
    if node is None or not node.inputs:
        return None
    known = _ARITHMETIC | _AS_THE_FIRST | _OF_ANOTHER_SHAPE
    match node.op_type:
        case "Cast":
            return ir.DataType(node.attributes.get_int("to")).numpy()
        case "ConstantOfShape":
            given = node.attributes.get_tensor("value", None)
            return np.dtype(np.float32) if given is None else given.dtype.numpy()
        case "DequantizeLinear":
            return dtype_of(node.inputs[1]) if node.inputs[1] is not None else None
        case name if name in known and node.inputs[0] is not None:
            return dtype_of(node.inputs[0])
        case _:
            return None


def _integers(value: ir.Value) -> Shape | None:
    tensor = constant_tensor(value)
    if tensor is None or len(tensor.shape) != 1:
        return None
    return tuple(int(extent) for extent in tensor.numpy())


def _broadcast(shapes: list[Shape]) -> Shape | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None
