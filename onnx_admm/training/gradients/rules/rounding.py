"""Gradients of quantisation: straight through the rounding, none where a value is clipped.

The gradient of a code is that of a real number in its place, so that QuantizeLinear and DequantizeLinear
behind one another pass the gradient on unchanged. Source: Bengio et al., arXiv 1308.3432 (straight-through
estimator); operators QuantizeLinear and DequantizeLinear, opset 13.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnx_admm.model.differentiation.records import Array
from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape

_SCALE, _ZERO_POINT = 1, 2

_DTYPES: Mapping[int, type[np.integer]] = {0: np.uint8, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}
"""Types of codes by the number that ONNX gives them; 0: not stated."""


@rule("QuantizeLinear")
def quantize(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Divide by the scale; zero where the code is clipped."""
    scale = _scale(tape, node)
    inside = tape.write("Mul", *(_within(tape, node, scale, is_upper=upper) for upper in (False, True)))
    return {0: tape.write("Div", tape.write("Mul", node.dy, inside), scale)}


@rule("DequantizeLinear")
def dequantize(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Multiply by the scale."""
    return {0: tape.write("Mul", node.dy, _scale(tape, node))}


def _within(tape: Tape, node: GradientNode, scale: str, *, is_upper: bool) -> str:
    """1 where a value is rounded to a code on this side of the grid's end, else 0."""
    zero = node.constant(_ZERO_POINT)
    codes = np.iinfo(_stated(node) if zero is None else _integer(zero).dtype)
    offset = np.zeros((), np.float32) if zero is None else _broadcast(node, zero).astype(np.float32)
    furthest = (codes.max + 0.5 if is_upper else codes.min - 0.5) - offset
    bound = tape.write("Mul", scale, tape.constant(furthest, np.float32))
    return tape.mask(tape.write("Less" if is_upper else "Greater", node.x, bound), np.float32)


def _scale(tape: Tape, node: GradientNode) -> str:
    """Return the scale in a shape that broadcasts to the data's."""
    extents = node.input_shapes[_SCALE]
    if not extents:
        return node.inputs[_SCALE]
    return tape.reshape(node.inputs[_SCALE], _broadcast(node, np.zeros(extents)).shape)


def _broadcast(node: GradientNode, value: Array) -> Array:
    """Return a scale or zero point in a shape that broadcasts to the data's."""
    if value.size == 1:
        return value.reshape(())
    if value.ndim != 1:
        raise UnsupportedVariant("scales of blocks")
    rank = len(node.input_shapes[0])
    axis = int(node.get("axis", 1)) % rank
    return value.reshape([-1 if place == axis else 1 for place in range(rank)])


def _stated(node: GradientNode) -> type[np.integer]:
    """Return the type of codes without a zero point: uint8, or what ``output_dtype`` says (opset 21)."""
    stated = int(node.get("output_dtype", 0))
    if stated not in _DTYPES:
        raise UnsupportedVariant(f"output_dtype {stated}")
    return _DTYPES[stated]


def _integer(zero: Array) -> npt.NDArray[np.integer]:
    if not np.issubdtype(zero.dtype, np.integer):
        raise UnsupportedVariant(f"codes of type {zero.dtype}")
    return zero.astype(zero.dtype.type)
