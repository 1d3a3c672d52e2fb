"""Rounding in a graph: codes that are only read dequantised, and the graph without them.

Finite differences mean nothing on steps, so gradients are checked on a graph without its rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx_admm.model.differentiation.records import GraphNode, StaticGraph
from onnx_admm.model.operators import Trait, operators_with

_ROUNDING, _READING = "QuantizeLinear", "DequantizeLinear"
_REARRANGING = operators_with(Trait.REARRANGES)
"""Operators that may stand between: they move codes."""


def codes_in(graph: StaticGraph) -> Mapping[str, str]:
    """Return the codes that are only read dequantised, with the value that each is made of.

    Codes that an operator on integers reads, or that are an output, are none: no gradient passes through
    them.
    """
    readers: dict[str, list[tuple[GraphNode, int]]] = {}
    for node in graph.nodes:
        for place, name in (*enumerate(node.inputs), *((-1, name) for name in node.captured)):
            readers.setdefault(name, []).append((node, place))

    def moved_from(code: str) -> set[str] | None:
        """Return a code and what it is moved to; None where something else reads it."""
        moved, waiting = {code}, [code]
        while waiting:
            for node, place in readers.get(waiting.pop(), []):
                if node.operator in _REARRANGING and node.domain == "" and place == 0:
                    waiting += [name for name in node.outputs[:1] if name not in moved]
                    moved.update(node.outputs[:1])
                elif node.operator != _READING or place != 0:
                    return None
        return moved

    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.operator == _ROUNDING and node.domain == "":
            moved = moved_from(node.outputs[0])
            if moved is not None and moved.isdisjoint(graph.outputs):
                found |= dict.fromkeys(moved, node.inputs[0])
    return found


def without_rounding(graph: StaticGraph) -> StaticGraph:
    """Return the graph with values passed on as they are where they are quantised and read dequantised."""
    codes = codes_in(graph)
    dtypes = {**graph.dtypes, **{code: graph.dtypes[value] for code, value in codes.items()}}
    return replace(graph, nodes=tuple(_passed_on(node, codes) for node in graph.nodes), dtypes=dtypes)


def _passed_on(node: GraphNode, codes: Mapping[str, str]) -> GraphNode:
    is_written = node.operator == _ROUNDING and node.outputs[0] in codes
    is_read = node.operator == _READING and node.inputs[0] in codes
    if not is_written and not is_read:
        return node
    return GraphNode(operator="Identity", inputs=node.inputs[:1], outputs=node.outputs, name=node.name)
