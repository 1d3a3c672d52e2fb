"""Where a graph can be cut so that few values cross the cut."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.view import ModelView

_TOLERANCE = 0.5
"""Share of a part's weights by which its end may move to where fewer values cross."""


@dataclass(frozen=True)
class Part:
    """A run of nodes of the main graph.

    Attributes:
        reads: values that earlier parts compute and this one or a later one reads, in graph order.
        gives: values that this part computes: those that a later part reads, and outputs of the model.
    """

    reads: tuple[str, ...]
    gives: tuple[str, ...]


def cut_into_parts(view: ModelView, weights: Collection[str], most_parts: int) -> tuple[Part, ...]:
    """Cut the main graph into parts of about as many weights each.

    A cut lies in front of a node that reads a weight, where as few computed values as possible cross it. What
    follows from constants and weights alone crosses no cut: each part computes it where it needs it.

    Args:
        view: the model, its nodes in topological order.
        weights: inputs that are weights.
        most_parts: parts, at most.

    Returns:
        The parts in order; one where there is no place to cut.
    """
    graph = view.graph_ir.graph
    flow = Flow(graph, frozenset(weights))
    cuts = list(_cuts(flow, most_parts))
    starts, ends = [0, *cuts], [*cuts, len(flow.nodes)]
    outputs = {output.name or "" for output in graph.outputs}
    return tuple(
        Part(tuple(flow.crossing(start)), tuple(flow.given(start, end, outputs)))
        for start, end in zip(starts, ends, strict=True)
    )


class Flow:
    """Which values of a graph depend on its data, and from where to where they live.

    Attributes:
        nodes: of the main graph.
        weighted: numbers of the nodes that combine data with a weight.
    """

    def __init__(self, graph: ir.Graph, weights: frozenset[str]) -> None:
        self.nodes = list(graph)
        self.weighted: list[int] = []
        self._made: dict[str, int] = {}
        self._last: dict[str, int] = {}
        data = {value.name for value in graph.inputs if value.name not in weights}
        learned: set[str | None] = set(weights)
        for number, node in enumerate(self.nodes):
            read = {value.name for value in values_read(node)}
            outputs = [value.name for value in node.outputs if value.name]
            if read & data:
                data.update(outputs)
                self._made.update(dict.fromkeys(outputs, number))
                self._last.update({name: number for name in read if name in self._made})
                if read & learned:
                    self.weighted.append(number)
            elif read & learned:
                learned.update(outputs)

    def crossing(self, cut: int) -> Iterator[str]:
        """Yield values that nodes before the cut compute and others read."""
        return (name for name, made in self._made.items() if made < cut <= self._last.get(name, -1))

    def counts(self) -> list[int]:
        """Return how many values cross in front of each node."""
        changes = [0] * (len(self.nodes) + 2)
        for name, made in self._made.items():
            last = self._last.get(name, -1)
            if last > made:
                changes[made + 1] += 1
                changes[last + 1] -= 1
        return list(itertools.accumulate(changes))

    def given(self, start: int, end: int, outputs: Collection[str]) -> Iterator[str]:
        """Yield values of nodes from ``start`` to ``end`` that later nodes, or the caller, read."""
        for name, made in self._made.items():
            if start <= made < end and (name in outputs or self._last.get(name, -1) >= end):
                yield name


def reads(view: ModelView, value: str) -> bool:
    """Return whether a node of the main graph, or of a subgraph, reads a value of that name."""
    return any(each.name == value for node in view.graph_ir.graph for each in values_read(node))


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node and its subgraphs read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                yield from (value for value in inner.inputs if value is not None)


def _cuts(flow: Flow, most_parts: int) -> Iterator[int]:
    """Yield the numbers of the nodes in front of which the graph is cut, rising."""
    places, before, counts = flow.weighted, 0, flow.counts()
    size = len(places) / most_parts
    for number in range(1, most_parts):
        middle, reach = number * size, _TOLERANCE * size
        near = [
            (counts[place], abs(at - middle), place)
            for at, place in enumerate(places)
            if abs(at - middle) <= reach and at and place > before
        ]
        if near:
            *_, before = min(near)
            yield before
