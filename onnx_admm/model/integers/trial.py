"""A model with one value rounded to a grid that is given at each run."""

from __future__ import annotations

import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.view import ModelView

SCALE, ZERO_POINT = "onnx_admm_trial_scale", "onnx_admm_trial_zero_point"
"""Further inputs: float32 and uint8 scalars."""


def with_trial_grid(view: ModelView, name: str) -> ModelView:
    """Return a fork in which all readers of a value read it rounded to the grid of two further inputs.

    Args:
        view: opset 10 or newer.
        name: an input, or an output of a node of the main graph; where it is an output of the model, that
            stays unrounded.

    Raises:
        UsageError: no such value.
    """
    fork = view.fork()
    graph = fork.graph_ir.graph
    values = {value.name: value for value in graph.inputs}
    values |= {value.name: value for node in graph for value in node.outputs}
    if name not in values:
        raise UsageError("no such value in the main graph", where=name)
    value = values[name]
    scale = ir.Value(name=SCALE, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT))
    zero = ir.Value(name=ZERO_POINT, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.UINT8))
    graph.inputs.extend([scale, zero])
    uses = [(use.node, use.idx) for use in value.uses()]
    quantized = ir.node("QuantizeLinear", [value, scale, zero])
    dequantized = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero])
    quantized.outputs[0].name, dequantized.outputs[0].name = f"{name}_trial_q", f"{name}_trial_dq"
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantized, dequantized])
    else:
        graph.insert_after(producer, [quantized, dequantized])
    for node, index in uses:
        node.replace_input_with(index, dequantized.outputs[0])
    return fork
