"""Topological order: ONNX requires it, ONNX Runtime does not, and some exporters do not keep it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from onnx_admm.model.files.guards import all_graphs


def sort_nodes(proto: onnx.ModelProto) -> bool:
    """Sort the nodes of every graph and function behind those whose outputs they read.

    Nodes that are in order keep it. A graph with a cycle, or with an input that no node computes, keeps its
    order: the checker names it.

    Returns:
        Whether any node moved.
    """
    inner_first = [graph.node for graph in reversed(list(all_graphs(proto)))]
    bodies = inner_first + [function.node for function in proto.functions]
    return sum(_sort(nodes) for nodes in bodies) > 0


def _sort(nodes: object) -> bool:
    """Sort the nodes of one body, the earliest of those that are ready first."""
    listed: list[onnx.NodeProto] = list(nodes)  # type: ignore[call-overload]
    producers = {name: number for number, node in enumerate(listed) for name in node.output if name}
    needs = [{producers[name] for name in _read(node) if name in producers} for node in listed]
    if all(needed < number for number, before in enumerate(needs) for needed in before):
        return False
    import networkx as nx  # where it is needed: most files are in order, and the import takes long

    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(listed)))
    graph.add_edges_from((needed, number) for number, before in enumerate(needs) for needed in before)
    try:
        order = list(nx.lexicographical_topological_sort(graph))
    except nx.NetworkXUnfeasible:
        return False
    copies = [onnx.NodeProto.FromString(listed[number].SerializeToString()) for number in order]
    del nodes[:]  # type: ignore[attr-defined]
    nodes.extend(copies)  # type: ignore[attr-defined]
    return True


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs take from outside included."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield from current.input
        for graph in _subgraphs(current):
            waiting.extend(graph.node)
            yield from (output.name for output in graph.output)


def _subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
