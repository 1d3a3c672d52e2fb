"""A graph and what was written behind it, as one graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.model.differentiation.records import GraphNode, Shape, StaticGraph
from onnx_admm.training.gradients.backward import write_backward
from onnx_admm.training.gradients.tape import PREFIX, Tape


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a composed graph: the value it is, its shape and dtype."""

    value: str
    shape: Shape
    dtype: np.dtype[np.generic]


def compose(
    graph: StaticGraph, tape: Tape, inputs: Mapping[str, Port], outputs: Mapping[str, Port]
) -> StaticGraph:
    """Join a graph and a tape.

    Args:
        graph: the forward pass.
        tape: what was written behind it, and in front of it on ``tape.front``.
        inputs: by name; the value is the name itself. Constants of the same name make way.
        outputs: by name; the value is the one that gets that name.
    """
    nodes = [
        *tape.front,
        *(replace(node, outputs=tape.with_extra_outputs(node)) for node in graph.nodes),
        *tape.nodes,
    ]
    nodes = _named(nodes, {name: port.value for name, port in outputs.items()})
    read = {name for node in nodes for name in node.reads} | {port.value for port in outputs.values()}
    inner = _outer_names(nodes)
    kept = {
        name: array
        for name, array in (*graph.constants.items(), *tape.constants.items())
        if name not in inputs and (name in read or name in inner or not name.startswith(PREFIX))
    }
    ports = {**inputs, **outputs}
    return StaticGraph(
        nodes=tuple(nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        constants=kept,
        known={},
        shapes={name: port.shape for name, port in ports.items()},
        dtypes={name: port.dtype for name, port in ports.items()},
        opsets=graph.opsets,
    )


def _named(nodes: list[GraphNode], outputs: Mapping[str, str]) -> list[GraphNode]:
    """Nodes that give each output its name: the node that makes it does, or an Identity behind it."""
    made = {name for node in nodes if node.stored is None for name in node.outputs}
    renamed: dict[str, str] = {}
    added = []
    for name, value in outputs.items():
        if value in made and value not in renamed:
            renamed[value] = name
        elif value != name:
            added.append((name, value))
    result = [
        replace(
            node,
            inputs=tuple(renamed.get(name, name) for name in node.inputs),
            outputs=tuple(renamed.get(name, name) for name in node.outputs),
        )
        for node in nodes
    ]
    for name, value in added:
        source = (renamed.get(value, value),)
        result.append(GraphNode(operator="Identity", inputs=source, outputs=(name,), name=name))
    return result


def _outer_names(nodes: list[GraphNode]) -> set[str]:
    """Names that bodies of scans read; they read values from outside, too."""
    found: set[str] = set()
    for node in nodes:
        body = node.attributes.get("body")
        if (
            node.stored is None
            and body is not None
            and not isinstance(body, (int, float, str, tuple, np.ndarray))
        ):
            found.update(name for inner in body.nodes for name in inner.inputs)
    return found


def seed_name(output: str) -> str:
    """Input of a gradient graph that holds d loss / d output."""
    return f"{PREFIX}seed::{output}"


def gradient_name(source: str) -> str:
    """Output of a gradient graph that holds d loss / d source."""
    return f"{PREFIX}gradient::{source}"


def gradient_graph(graph: StaticGraph, sources: Collection[str]) -> StaticGraph:
    """Return the graph that computes gradients of ``sum(seed * output)``, summed over the outputs.

    Args:
        graph: its floating-point outputs are seeded.
        sources: inputs or constants whose gradients are asked for.

    Returns:
        A graph that reads the same inputs, the sources and a seed for each output; it gives the gradient of
        each source that has one.

    Raises:
        NoGradient: an operator on the way has no rule.
    """
    tape = Tape()
    seeded = [name for name in graph.outputs if graph.dtypes[name].kind not in "iubOSU"]
    found = write_backward(graph, tape, {name: seed_name(name) for name in seeded}, sources)

    def port(name: str, value: str) -> Port:
        return Port(value, graph.shapes[name], graph.dtypes[name])

    inputs = {name: port(name, name) for name in dict.fromkeys([*graph.inputs, *sources])}
    inputs |= {seed_name(name): port(name, seed_name(name)) for name in seeded}
    outputs = {gradient_name(name): port(name, value) for name, value in found.items()}
    return compose(graph, tape, inputs, outputs)
