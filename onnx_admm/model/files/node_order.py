"""Topological order: ONNX requires it, ONNX Runtime does not, and some exporters do not keep it."""

from __future__ import annotations

import heapq
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
    """Sort the nodes of one body by Kahn's method, the earliest of those that are ready first."""
    listed: list[onnx.NodeProto] = list(nodes)  # type: ignore[call-overload]
    producers = {name: number for number, node in enumerate(listed) for name in node.output if name}
    needs = [{producers[name] for name in _read(node) if name in producers} for node in listed]
    if all(needed < number for number, before in enumerate(needs) for needed in before):
        return False
    readers: list[list[int]] = [[] for _ in listed]
    for number, before in enumerate(needs):
        for needed in before:
            readers[needed].append(number)
    missing = [len(before) for before in needs]
    ready = [number for number, count in enumerate(missing) if not count]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers[number]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(listed):
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
