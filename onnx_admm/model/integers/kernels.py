"""Kernels of an optimised graph: which are integer ones."""

from __future__ import annotations

from collections import Counter

import onnx

_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits", "ConvInteger")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def kernel_counts(optimised: bytes) -> dict[str, int]:
    """Return the number of kernels of each operator in a graph that a runtime has optimised."""
    model = onnx.ModelProto()
    model.ParseFromString(optimised)
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def is_integer_kernel(op_type: str) -> bool:
    """Return whether a kernel of that name computes with integers.

    Example:
        >>> is_integer_kernel("QLinearConv"), is_integer_kernel("Conv")
        (True, False)
    """
    return op_type.startswith(_INTEGER)


def is_conversion(op_type: str) -> bool:
    """Return whether a kernel converts between floats and integers."""
    return op_type in _CONVERSIONS
