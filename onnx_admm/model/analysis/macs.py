"""Multiply-accumulates of one product of one node."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from onnx_admm.model.einsum import einsum_macs
from onnx_admm.model.operators import STANDARD, Macs, Trait, has_trait, operator_of

ShapeOf = Callable[[ir.Value | None], tuple[int, ...] | None]


def weight_operands(node: ir.Node) -> tuple[int, ...]:
    """Return the inputs that the node multiplies its data by; one for an unknown operator."""
    known = operator_of(node)
    if known is None:
        return () if node.domain in STANDARD else (0,)
    return (0,) if known.macs in (Macs.UNKNOWN, Macs.EINSUM) else known.products


def count_macs(node: ir.Node, index: int, shape_of: ShapeOf) -> int | None:
    """Return the multiply-accumulates of the product with operand ``index``, zeros included.

    None where an extent is unknown, and for operators whose products cannot be counted.
    """
    known = operator_of(node)
    rule = Macs.UNKNOWN if known is None else known.macs
    if rule in (Macs.UNKNOWN, Macs.NONE):
        return 0 if rule is Macs.NONE else None
    if rule is Macs.EINSUM:
        return einsum_macs(node, [shape_of(value) for value in node.inputs])
    weight, data = shape_of(node.inputs[index]), shape_of(node.inputs[0])
    output = shape_of(node.outputs[0])
    if weight is None:
        return None
    match rule:
        case Macs.PER_OUTPUT:
            return None if output is None else math.prod(output) * math.prod(weight[1:])
        case Macs.PER_INPUT:
            return None if data is None else math.prod(data) * math.prod(weight[1:])
        case Macs.PER_STEP:
            return None if data is None else math.prod(data[:2]) * math.prod(weight)
        case _:
            return None if output is None else math.prod(output) * weight[_inner_axis(node, index, weight)]


def _inner_axis(node: ir.Node, index: int, weight: tuple[int, ...]) -> int:
    """Return the axis of operand ``index`` that a product sums over."""
    if len(weight) < 2:
        return -1
    turns = has_trait(node, Trait.TRANSPOSES)
    is_turned = turns and bool(node.attributes.get_int("transB" if index else "transA", 0))
    return -1 if is_turned == bool(index) else -2
