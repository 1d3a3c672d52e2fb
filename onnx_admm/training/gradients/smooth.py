"""A graph without its rounding: finite differences mean nothing on steps."""

from __future__ import annotations

from dataclasses import replace

from onnx_admm.model.differentiation.records import GraphNode, StaticGraph

_ROUNDING = "QuantizeLinear"


def rounds(graph: StaticGraph) -> bool:
    """Whether values are put on a grid."""
    return any(node.operator == _ROUNDING and node.domain == "" for node in graph.nodes)


def without_rounding(graph: StaticGraph) -> StaticGraph:
    """Return the graph with values passed on as they are, where they are quantised and read dequantised."""
    codes = {
        node.outputs[0]: node.inputs[0]
        for node in graph.nodes
        if node.operator == _ROUNDING and node.domain == ""
    }
    dtypes = {**graph.dtypes, **{code: graph.dtypes[value] for code, value in codes.items()}}
    return replace(graph, nodes=tuple(_passed_on(node, codes) for node in graph.nodes), dtypes=dtypes)


def _passed_on(node: GraphNode, codes: dict[str, str]) -> GraphNode:
    is_read = node.operator == "DequantizeLinear" and node.inputs[0] in codes
    if node.outputs[0] not in codes and not is_read:
        return node
    return GraphNode(operator="Identity", inputs=node.inputs[:1], outputs=node.outputs, name=node.name)
