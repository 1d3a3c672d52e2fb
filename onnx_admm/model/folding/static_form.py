"""Shape and element type of a decoder's result, derived from its nodes without running them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor, stored_tensor

Shape = tuple[int, ...]

_ARITHMETIC = frozenset({"Add", "BitShift", "Div", "Mod", "Mul", "Sub"})
_AS_THE_FIRST = frozenset(
    {"Abs", "Ceil", "Floor", "Identity", "Neg", "Round", "ScatterElements", "ScatterND"}
)
_OF_ANOTHER_SHAPE = frozenset(
    {"CumSum", "Expand", "Gather", "MatMul", "Pad", "Reshape", "Slice", "Split", "Tile", "Transpose"}
)


@dataclass(frozen=True, slots=True)
class Form:
    """Shape and element type of a value; None where unknown."""

    shape: Shape | None = None
    dtype: np.dtype[np.generic] | None = None


_UNKNOWN = Form()


def form_of(target: ir.Value, forms: dict[ir.Value, Form]) -> Form:
    """Return the form of a constant, or of the result of a decoder's operators.

    Args:
        target: the value.
        forms: known forms; those of values in between are added.
    """
    pending = [target]
    while pending:
        value = pending[-1]
        if value in forms:
            pending.pop()
            continue
        node, stored = value.producer(), _stored_form(value)
        inputs = [] if node is None else [operand for operand in node.inputs if operand is not None]
        if stored is not None or node is None or not inputs:
            forms[value] = stored or _UNKNOWN
        elif unknown := [operand for operand in inputs if operand not in forms]:
            pending += unknown
        else:
            form = Form(_shape(node, inputs, forms), _dtype(node, inputs, forms))
            forms.update(dict.fromkeys(node.outputs, form))
    return forms[target]


def _stored_form(value: ir.Value) -> Form | None:
    tensor = stored_tensor(value)
    return None if tensor is None else Form(tuple(tensor.shape.numpy()), tensor.dtype.numpy())


def _shape(node: ir.Node, inputs: list[ir.Value], forms: Mapping[ir.Value, Form]) -> Shape | None:
    first = forms[inputs[0]].shape
    match node.op_type:
        case "Reshape" | "ConstantOfShape":
            extents = _integers(inputs[-1])
            return extents if extents is not None and all(extent > 0 for extent in extents) else None
        case "Cast" | "DequantizeLinear":
            return first
        case "Expand":
            extents = _integers(inputs[-1])
            return None if extents is None or first is None else _broadcast([first, extents])
        case "Gather":
            indices = forms[inputs[1]].shape
            whole = None if first is None or indices is None else (*indices, *first[1:])
            return whole if node.attributes.get_int("axis", 0) == 0 else None
        case name if name in _AS_THE_FIRST:
            return first
        case name if name in _ARITHMETIC:
            known = [shape for value in inputs if (shape := forms[value].shape) is not None]
            return _broadcast(known) if len(known) == len(inputs) else None
        case _:
            return None


def _dtype(
    node: ir.Node, inputs: list[ir.Value], forms: Mapping[ir.Value, Form]
) -> np.dtype[np.generic] | None:
    match node.op_type:
        case "Cast":
            return _numpy_dtype(node.attributes.get_int("to", 0))
        case "ConstantOfShape":
            given = node.attributes.get_tensor("value", None)
            return np.dtype(np.float32) if given is None else given.dtype.numpy()
        case "MatMulInteger":
            return np.dtype(np.int32)
        case "DequantizeLinear":
            return forms[inputs[1]].dtype if len(inputs) > 1 else None
        case name if name in _ARITHMETIC | _AS_THE_FIRST | _OF_ANOTHER_SHAPE:
            return forms[inputs[0]].dtype if node.inputs[0] is not None else None
        case _:
            return None


def _numpy_dtype(number: int) -> np.dtype[np.generic] | None:
    try:
        return ir.DataType(number).numpy()
    except (TypeError, ValueError):  # no such element type, or none that numpy has
        return None


def _integers(value: ir.Value) -> Shape | None:
    tensor = constant_tensor(value)
    if tensor is None or len(tensor.shape) != 1 or tensor.dtype.numpy().kind not in "iu":
        return None
    return tuple(int(extent) for extent in tensor.numpy())


def _broadcast(shapes: list[Shape]) -> Shape | None:
    try:
        return np.broadcast_shapes(*shapes)
    except (ValueError, RuntimeError, OverflowError):  # numpy knows 32 axes here, and extents of 63 bits
        return None
