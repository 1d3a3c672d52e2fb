"""Tables that are added or looked up: learned positions, and constants that only look similar.

A bias has one number for each channel; a table has two axes or more, and a minimum number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.operators import STANDARD, Trait, has_trait, operators_with

LEAST_ELEMENTS = 1024
_DECODING = operators_with(Trait.DECODES)


def is_table(shape: Sequence[int]) -> bool:
    """Return whether a constant of that shape may be a table, and no bias."""
    size = 1
    for extent in shape:
        size *= extent
    return sum(extent > 1 for extent in shape) >= 2 and size >= LEAST_ELEMENTS


def decodes(nodes: Sequence[ir.Node]) -> bool:
    """Return whether constants of these nodes were encoded, and not only moved or made by a formula."""
    return any(node.op_type in _DECODING for node in nodes)


def stored_table(value: ir.Value) -> bool:
    """Return whether a value is a stored constant of floats and of a table's shape."""
    tensor = stored_tensor(value)
    return tensor is not None and tensor.dtype.is_floating_point() and is_table(tuple(tensor.shape.numpy()))


def beneath_functions(table: ir.Value, is_constant: Callable[[ir.Value], bool]) -> ir.Value:
    """Return the weight in a table of rows that functions and biases have been applied to beforehand.

    Args:
        table: what a Gather looks rows up in.
        is_constant: whether a value is stored or decoded: computed by operators that decoders consist of.
    """
    while not is_constant(table) and (data := _argument(table, is_constant)) is not None:
        table = data
    while (data := _biased(table)) is not None:
        table = data
    return table


def _argument(value: ir.Value, is_constant: Callable[[ir.Value], bool]) -> ir.Value | None:
    """Return what a function of single elements or of a row is applied to, its constants aside; else None."""
    node = value.producer()
    if node is None or node.domain not in STANDARD:
        return None
    if has_trait(node, Trait.UNARY) or node.op_type == "LayerNormalization":
        return node.inputs[0]
    if not has_trait(node, Trait.BROADCASTS):
        return None
    computed = {operand for operand in node.inputs if operand is not None and not is_constant(operand)}
    return next(iter(computed)) if len(computed) == 1 else None


def _biased(value: ir.Value) -> ir.Value | None:
    """Return what an Add adds one stored row of floats to; else None. No decoder ends with an Add."""
    add = value.producer()
    if add is None or add.op_type != "Add" or add.domain not in STANDARD:
        return None
    for place in (0, 1):
        row = add.inputs[1 - place]
        tensor = None if row is None else stored_tensor(row)
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        if all(extent == 1 for extent in tuple(tensor.shape.numpy())[:-1]):
            return add.inputs[place]
    return None
