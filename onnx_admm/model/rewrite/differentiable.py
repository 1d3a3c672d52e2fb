"""Rewrites into forms with gradients in onnxruntime-training, on a copy: the outputs stay equal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_admm.model.edit import new_initializer


def make_differentiable(graph: ir.Graph) -> None:
    """Rewrite operators whose gradient (1.19.2) needs another form.

    - ``Sum`` has none: a chain of ``Add``.
    - ``LayerNormalization`` needs its bias given and its mean and deviation as outputs.
    """
    for node in list(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Sum":
            _add_in_turn(graph, node)
        elif node.op_type == "LayerNormalization":
            _complete_layer_norm(graph, node)


def _add_in_turn(graph: ir.Graph, node: ir.Node) -> None:
    total, *others = (value for value in node.inputs if value is not None)
    for other in others:
        add = ir.node("Add", [total, other], name=f"{node.name}::add")
        graph.insert_before(node, add)
        total = add.outputs[0]
    ir.convenience.replace_all_uses_with(node.outputs[0], total, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _complete_layer_norm(graph: ir.Graph, node: ir.Node) -> None:
    scale = node.inputs[1]
    if len(node.outputs) < 3:
        node.resize_outputs(3)
        node.outputs[1].name, node.outputs[2].name = f"{node.name}::mean", f"{node.name}::deviation"
    if scale is None or scale.const_value is None or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return
    zeros = new_initializer(graph, f"{node.name}::bias", np.zeros_like(scale.const_value.numpy()))
    node.resize_inputs(3)
    node.replace_input_with(2, zeros)
