"""Stored integer weights in the types and forms that released runtimes compute rightly and fast.

All of them keep every dequantised value:

    uint8 codes            int8 codes and zero points, both less 128
    int8 codes of ConvInteger  uint8 codes and zero points, both 128 more
    int8, no zero point    a zero point of 0
    2 bits, N % 4 != 0     4 bits, the same codes
    blocks of 512          blocks of 256, each scale twice
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.operators import MICROSOFT, STANDARD
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.quantised.dequantised import Dequantised, dequantised, stored_array
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for

_LAYERS = ("Conv", "Gemm", "MatMul")
_INTEGER_LAYERS = {"QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "MatMulInteger": (1, 3), "QGemm": (3, 5)}
"""Operators that compute with stored integers: inputs of the weight and of its zero point."""

_FOUR_BITS = {ir.DataType.INT2: ml_dtypes.int4, ir.DataType.UINT2: ml_dtypes.uint4}
_FOUR_BITS_SINCE = 21
_WRONG_BLOCK = 512
_ZERO_POINT_DTYPES = (ir.DataType.INT8,)
_MOVING = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})


def find_uint8_weights(context: RewriteContext) -> Iterator[Match]:
    """Yield uint8 weights of layers with integer kernels."""
    what = "uint8 weights become int8 weights, zero points included"
    for node, weight in _dequantised_weights(context):
        if weight.dtype == ir.DataType.UINT8 and _can_shift(weight.codes, weight.zero_point, weight.scale):
            yield Match((node, weight.node), what, 10, partial(_shift, context, weight.node, 0, 2, 1, -128))
    for node in context.nodes(*_INTEGER_LAYERS, domains=(*STANDARD, MICROSOFT)):
        codes, zero = _INTEGER_LAYERS[node.op_type]
        value = node.inputs[codes]
        tensor = None if value is None else constant_tensor(value)
        point = node.inputs[zero] if len(node.inputs) > zero else None
        if tensor is None or tensor.dtype != ir.DataType.UINT8:
            continue
        if point is None or stored_array(point) is not None:
            yield Match((node,), what, 10, partial(_shift, context, node, codes, zero, None, -128))


def find_int8_conv_integers(context: RewriteContext) -> Iterator[Match]:
    """Yield ConvInteger with int8 weights, whose kernel is several times slower than that for uint8."""
    for node in context.nodes("ConvInteger"):
        weight = node.inputs[1]
        tensor = None if weight is None else constant_tensor(weight)
        point = node.inputs[3] if len(node.inputs) > 3 else None
        if tensor is None or tensor.dtype != ir.DataType.INT8:
            continue
        if point is None or stored_array(point) is not None:
            what = "int8 weights of ConvInteger become uint8 weights, zero points included"
            yield Match((node,), what, 10, partial(_shift, context, node, 1, 3, None, 128))


def _dequantised_weights(context: RewriteContext) -> Iterator[tuple[ir.Node, Dequantised]]:
    """Yield layers and their dequantised stored weight, each DequantizeLinear once."""
    seen = set[ir.Node]()
    for node in context.nodes(*_LAYERS):
        weight = dequantised(node.inputs[1])
        if weight is not None and weight.is_stored and weight.node not in seen:
            seen.add(weight.node)
            yield node, weight


def _can_shift(codes: ir.Value, point: ir.Value | None, scale: ir.Value | None) -> bool:
    has_scale = point is not None or stored_array(scale) is not None
    return (
        constant_tensor(codes) is not None
        and has_scale
        and (point is None or stored_array(point) is not None)
    )


def _shift(context: RewriteContext, node: ir.Node, codes: int, zero: int, scale: int | None, by: int) -> None:
    array = stored_array(node.inputs[codes])
    if array is None:
        return
    point = stored_array(node.inputs[zero] if len(node.inputs) > zero else None)
    if point is None:
        like = None if scale is None else stored_array(node.inputs[scale])
        point = np.zeros(() if like is None else like.shape, array.dtype)
    for index, content in ((codes, array), (zero, point)):
        old = node.inputs[index] if index < len(node.inputs) else None
        name = (old.name if old is not None else None) or f"{node.outputs[0].name}_zero_point"
        shifted = (content.astype(np.int16) + by).astype(np.int8 if by < 0 else np.uint8)
        constant_for(context, node, index, shifted, f"{name}_{shifted.dtype.name}")


def find_missing_zero_points(context: RewriteContext) -> Iterator[Match]:
    """Yield int8 DequantizeLinear without a zero point in front of Reshape or Transpose."""
    for node in context.nodes("DequantizeLinear"):
        found = dequantised(node.outputs[0])
        scale = None if found is None else stored_array(found.scale)
        if found is None or scale is None or found.zero_point is not None:
            continue
        if found.dtype not in _ZERO_POINT_DTYPES or not _is_moved(node):
            continue
        what = "DequantizeLinear of int8 gets an explicit zero point of 0"
        yield Match((node,), what, 10, partial(_add_zero_point, context, node, scale.shape))


def _is_moved(node: ir.Node) -> bool:
    return any(use.node.op_type in _MOVING for use in node.outputs[0].uses())


def _add_zero_point(context: RewriteContext, node: ir.Node, shape: tuple[int, ...]) -> None:
    constant_for(context, node, 2, np.zeros(shape, np.int8), f"{node.outputs[0].name}_zero_point")


def find_narrow_two_bit_weights(context: RewriteContext) -> Iterator[Match]:
    """Yield 2-bit weights of Gemm and MatMul with a number of columns that 4 does not divide."""
    for node, weight in _dequantised_weights(context):
        if weight.bits != 2 or weight.shape is None or len(weight.shape) != 2 or node.op_type == "Conv":
            continue
        columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
        if columns % 4 and weight.dtype in _FOUR_BITS:
            what = f"2-bit weights with {columns} columns are stored in 4 bits"
            yield Match((node, weight.node), what, _FOUR_BITS_SINCE, partial(_widen, context, weight))


def _widen(context: RewriteContext, weight: Dequantised) -> None:
    if weight.dtype is None:
        return
    for index, value in ((0, weight.codes), (2, weight.zero_point)):
        array = stored_array(value)
        if value is not None and array is not None:
            wide = array.astype(np.int8).astype(_FOUR_BITS[weight.dtype])
            constant_for(context, weight.node, index, wide, f"{value.name}_int4")


def find_blocks_of_512(context: RewriteContext) -> Iterator[Match]:
    """Yield weights in blocks of 512, which two releases compute as zeros."""
    for node, weight in _dequantised_weights(context):
        if weight.block != _WRONG_BLOCK or stored_array(weight.scale) is None:
            continue
        if weight.zero_point is not None and stored_array(weight.zero_point) is None:
            continue
        what = "blocks of 512 weights become blocks of 256, each scale twice"
        yield Match((node, weight.node), what, _FOUR_BITS_SINCE, partial(_halve_blocks, context, weight))


def _halve_blocks(context: RewriteContext, weight: Dequantised) -> None:
    node, axis = weight.node, weight.axis
    extent = (weight.shape or ())[axis]
    half = _WRONG_BLOCK // 2
    for index, value in ((1, weight.scale), (2, weight.zero_point)):
        array = stored_array(value)
        if value is not None and array is not None:
            twice = np.repeat(array, 2, axis=axis).take(range(-(-extent // half)), axis=axis)
            constant_for(context, node, index, twice, f"{value.name}_halved")
    node.attributes.add(ir.AttrInt64("block_size", half))
