"""Brings a model into the form from which integer activations are written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import bypass, free_name, taken_names
from onnx_admm.model.view import ModelView

_MATRIX = 2
_BIAS_SINCE = 11
"""Opset from which on Gemm's bias is optional and its rules of broadcasting are today's."""


def matmuls_to_gemms(view: ModelView, ranks: Mapping[str, int]) -> int:
    """Replace each MatMul of two matrices and the Add of a bias behind it by a Gemm; return their number.

    A runtime does the same when it loads the model, but with a bias in float, which has no integer kernel.

    Args:
        view: the model, changed in place; left as it is before opset 11.
        ranks: number of axes of values, by name.
    """
    graph, replaced = view.graph_ir.graph, 0
    for node in list(graph) if view.opset >= _BIAS_SINCE else ():
        found = _bias_behind(node, ranks)
        if found is None:
            continue
        add, bias = found
        gemm = ir.node("Gemm", [*node.inputs, bias], name=node.name)
        gemm.outputs[0].name = free_name(f"{node.outputs[0].name}_biased", taken_names(view.graph_ir))
        graph.insert_before(add, gemm)
        bypass(add, gemm.outputs[0])
        graph.remove(node, safe=True)
        replaced += 1
    return replaced


def _bias_behind(node: ir.Node, ranks: Mapping[str, int]) -> tuple[ir.Node, ir.Value] | None:
    """Return the Add of a stored bias behind a product of matrices, and the bias."""
    if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or node.inputs[1] is None:
        return None
    data, weight, output = node.inputs[0], constant_tensor(node.inputs[1]), node.outputs[0]
    if (
        data is None
        or ranks.get(data.name or "") != _MATRIX
        or weight is None
        or len(weight.shape) != _MATRIX
    ):
        return None
    uses = tuple(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add":
        return None
    add = uses[0].node
    bias = add.inputs[1 - uses[0].idx]
    tensor = None if bias is None or add.graph is not node.graph else constant_tensor(bias)
    channels = int(weight.shape.numpy()[1])
    if bias is None or tensor is None or tensor.shape.numpy() not in ((channels,), (1, channels)):
        return None
    return (add, bias) if tensor.dtype.numpy() == np.float32 else None


def is_integer(view: ModelView) -> bool:
    """Return whether a model computes activations as integers already."""
    names = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
    return any(node.op_type in names for node in view.graph_ir.graph.all_nodes())
