"""Shape and element type of what a decoder gives, told from its nodes without running them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor

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
    """Shape and element type of a value; None where they are not told."""

    shape: Shape | None = None
    dtype: np.dtype[np.generic] | None = None


_UNKNOWN = Form()


def form_of(target: ir.Value, nodes: Iterable[ir.Node]) -> Form:
    """The form of a constant, or of what operators of decoders make of constants.

    Args:
        target: the value.
        nodes: all that it is computed from, each behind those it reads.
    """
    forms: dict[ir.Value, Form] = {}
    for node in nodes:
        inputs = [value for value in node.inputs if value is not None]
        for value in inputs:
            if value not in forms:
                forms[value] = _stored_form(value)
        form = Form(_shape(node, inputs, forms), _dtype(node, inputs, forms)) if inputs else _UNKNOWN
        forms.update(dict.fromkeys(node.outputs, form))
    return forms.get(target) or _stored_form(target)


def _stored_form(value: ir.Value) -> Form:
    tensor = constant_tensor(value)
    return _UNKNOWN if tensor is None else Form(tuple(tensor.shape.numpy()), tensor.dtype.numpy())


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
