"""Constants that no known layer reads: those of integer operators, and of operators outside the standard."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.sites import label
from onnx_admm.model.view import ModelView

_INTEGER_OPERATORS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_STANDARD = ("", "ai.onnx")
_INTEGERS = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}
_LEAST_BYTES = 256
"""Smaller constants are scales, shapes and the like."""


@dataclass(frozen=True, slots=True)
class StrangeConstant:
    """A constant that may be a weight, but whose operator this project does not know as a layer.

    Attributes:
        name: of the constant.
        node: that reads it.
        operator: the node's, prefixed by its domain outside the standard.
        is_integer: whether it holds integers of at most 8 bits.
    """

    name: str
    node: str
    operator: str
    is_integer: bool

    def why_left(self) -> str:
        """One line on why it stays as it is."""
        if self.is_integer:
            return f"integers already, read by {self.operator}"
        return f"read by {self.operator}, an operator outside the standard"


def strange_constants(view: ModelView) -> tuple[StrangeConstant, ...]:
    """In graph order, subgraphs and functions included, each once."""
    found: dict[ir.Value, StrangeConstant] = {}
    for reference in view.nodes():
        node = reference.ir_node
        if node.domain in _STANDARD and node.op_type not in _INTEGER_OPERATORS:
            continue
        for value in node.inputs:
            tensor = None if value is None else constant_tensor(value)
            if value is not None and tensor is not None and tensor.nbytes >= _LEAST_BYTES:
                is_integer = tensor.dtype in _INTEGERS
                strange = StrangeConstant(value.name or "", label(node), reference.op_type, is_integer)
                found.setdefault(value, strange)
    return tuple(found.values())
