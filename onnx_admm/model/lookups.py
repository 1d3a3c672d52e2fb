"""Tables that are stored as small integers and decoded behind the lookup, only for the rows requested.

    Gather (Cast (codes) * scale, i)  =  Cast (Gather (codes, i)) * Gather (scale, i)

value by value, since both sides do the same arithmetic. A runtime that folds the left side keeps the table as
floats; with the right side it keeps the codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.operators import STANDARD

LOOKED_UP = (ir.DataType.INT8, ir.DataType.UINT8)
"""Types of codes."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table that is decoded behind a Gather along its first axis.

    Attributes:
        codes: integers, (rows, ...); constant.
        scale: floats that broadcast over the codes, one for each row or one for all; None for 1.
        dtype: element type of the decoded table.
    """

    codes: ir.Value
    scale: ir.Value | None
    dtype: np.dtype[np.generic]

    def decoded(self, codes: npt.NDArray[np.generic], scale: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Return the table of these codes and scales."""
        table = codes.astype(np.float32)
        return (table if scale is None else table * scale).astype(self.dtype, copy=False)


def gathers_rows(node: ir.Node) -> bool:
    """Return whether a node is a Gather along the first axis."""
    return node.op_type == "Gather" and node.domain in STANDARD and node.attributes.get_int("axis", 0) == 0


def find_lookup(node: ir.Node, is_constant: Callable[[ir.Value], bool]) -> Lookup | None:
    """Return the table of integers whose rows a Gather takes to be decoded; else None."""
    codes, rows = node.inputs[0], node.outputs[0]
    cast = _only_reader(rows, "Cast")
    if not gathers_rows(node) or codes is None or cast is None or not is_constant(codes):
        return None
    found, scale = cast, None
    if cast_type(cast) == ir.DataType.FLOAT and (product := _only_reader(cast.outputs[0], "Mul")) is not None:
        factor = next((v for v in product.inputs if v is not cast.outputs[0]), None)
        scale = _scale(factor, node.inputs[1], is_constant)
        if scale is not None:
            found = product
            last = _only_reader(found.outputs[0], "Cast")
            found = last if last is not None and cast_type(last) in _FLOATS else found
    dtype = cast_type(found) if found.op_type == "Cast" else ir.DataType.FLOAT
    return Lookup(codes, scale, dtype.numpy()) if dtype in _FLOATS else None


def looks_up_scales(node: ir.Node) -> bool:
    """Return whether a Gather takes the scales of rows that another one takes as integers."""
    product = _only_reader(node.outputs[0], "Mul") if gathers_rows(node) else None
    if product is None:
        return False
    units = next((value for value in product.inputs if value is not node.outputs[0]), None)
    cast = None if units is None else units.producer()
    rows = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    codes = None if rows is None else rows.producer()
    return codes is not None and gathers_rows(codes) and codes.inputs[1] is node.inputs[1]


def _scale(
    factor: ir.Value | None, indices: ir.Value | None, is_constant: Callable[[ir.Value], bool]
) -> ir.Value | None:
    if factor is None:
        return None
    producer = factor.producer()
    if producer is not None and gathers_rows(producer) and producer.inputs[1] is indices:
        factor = producer.inputs[0]
        return factor if factor is not None and is_constant(factor) else None
    is_single = factor.shape is not None and len(factor.shape) == 0
    return factor if is_single and is_constant(factor) else None


def cast_type(node: ir.Node) -> ir.DataType:
    """Return the element type that a Cast gives."""
    return ir.DataType(node.attributes.get_int("to", 0))


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the one node that reads a value, if it is of that operator."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.op_type == op_type and node.domain in STANDARD else None
