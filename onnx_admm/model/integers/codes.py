"""Stored int8 codes of weights: behind a DequantizeLinear, or of MatMulInteger."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor, why_fixed
from onnx_admm.model.view import ModelView

_MATRIX = 2
_CODES = {"DequantizeLinear": 0, "MatMulInteger": 1}
"""Input with the codes, by operator."""


def integer_codes(view: ModelView) -> dict[str, npt.NDArray[np.int8]]:
    """Return the int8 initializers of the main graph that only those two operators read, by name.

    Matrices and filters; a vector of codes is smaller than any decoder.
    """
    found: dict[str, npt.NDArray[np.int8]] = {}
    for name, value in view.graph_ir.graph.initializers.items():
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype != ir.DataType.INT8 or len(tensor.shape) < _MATRIX:
            continue
        uses = tuple(value.uses())
        if uses and why_fixed(value) is None and all(_reads_codes(use.node, use.idx) for use in uses):
            found[name] = np.array(tensor.numpy())
    return found


def _reads_codes(node: ir.Node, index: int) -> bool:
    return node.domain in ("", "ai.onnx") and _CODES.get(node.op_type) == index
