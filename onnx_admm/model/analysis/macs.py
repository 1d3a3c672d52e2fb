"""Multiply-accumulates of one product of one node."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from onnx_admm.model.einsum import einsum_macs

ShapeOf = Callable[[ir.Value | None], tuple[int, ...] | None]

_OPERANDS = {
    "Conv": (1,),
    "ConvInteger": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "MatMulInteger": (1,),
    "QLinearConv": (3,),
    "QLinearMatMul": (3,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Inputs that a node multiplies its data by, weights or not."""

_UNCOUNTED = {"Attention", "DFT", "DeformConv", "MelWeightMatrix", "STFT"}
"""Standard operators that multiply and accumulate in ways that are not counted here."""


def weight_operands(node: ir.Node) -> tuple[int, ...]:
    """Inputs that the node multiplies its data by; an unknown operator answers with one, to ask about."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _UNCOUNTED:
        return (0,)
    return (0,) if node.op_type == "Einsum" else _OPERANDS.get(node.op_type, ())


def count_macs(node: ir.Node, index: int, shape_of: ShapeOf) -> int | None:
    """Multiply-accumulates of the product with operand ``index``, zeros included.

    None where an extent is unknown, and of operators whose products are not known how to count.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type in _UNCOUNTED:
        return None
    if node.op_type in ("Add", "Gather"):
        return 0  # a table is added or looked up, which multiplies nothing
    if node.op_type == "Einsum":
        return einsum_macs(node, [shape_of(value) for value in node.inputs])
    weight, data = shape_of(node.inputs[index]), shape_of(node.inputs[0])
    output = shape_of(node.outputs[0])
    if weight is None:
        return None
    match node.op_type:
        case "Conv" | "ConvInteger" | "QLinearConv":
            return None if output is None else math.prod(output) * math.prod(weight[1:])
        case "ConvTranspose":
            return None if data is None else math.prod(data) * math.prod(weight[1:])
        case "LSTM" | "GRU" | "RNN":
            return None if data is None else math.prod(data[:2]) * math.prod(weight)
        case _:
            return None if output is None else math.prod(output) * weight[_inner_axis(node, index, weight)]


def _inner_axis(node: ir.Node, index: int, weight: tuple[int, ...]) -> int:
    """The axis of operand ``index`` that a Gemm or MatMul sums over."""
    if node.op_type == "Gemm":
        transposed = bool(node.attributes.get_int("transB" if index else "transA", 0))
        return int(transposed == (index == 1))
    return -2 if index and len(weight) > 1 else -1
