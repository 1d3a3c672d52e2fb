"""The path from trained weights to the loss: biases trained too, and operators without a gradient."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from onnx_admm.errors import NoGradient
from onnx_admm.model.operators import Trait, biased_operators, operators_with

_BIASED = biased_operators()
_ON_A_GRID = ("QuantizeLinear", "DequantizeLinear")
_DISCRETE = operators_with(Trait.DISCRETE)
"""Operators without a gradient: they return discrete numbers or truth values."""


def check_differentiable(graph: ir.Graph, trained: Collection[ir.Value]) -> None:
    """Refuse nodes with subgraphs, on which the training runtime ends its process.

    Args:
        graph: computes the loss and nothing else.
        trained: weights.

    Raises:
        NoGradient: names the node.
    """
    for node in _nodes_behind(graph, set(trained)):
        if _subgraphs(node):
            raise NoGradient(
                f"the training runtime has no gradient for {node.op_type}",
                where=f"node {node.name}",
                hint="Use --no-fine-tune.",
            )


def biases_beside(
    graph: ir.Graph, weights: Collection[ir.Value], fixed: Collection[str]
) -> Iterator[ir.Value]:
    """Yield float vectors that are added behind trained weights, each once.

    These are the bias of a Conv or Gemm whose weight is trained, and an operand of an Add behind a trained
    weight. A single number in an Add belongs to a formula (an epsilon, the 3 of a HardSwish) and is no bias.

    Args:
        graph: computes the loss and nothing else.
        weights: trained weights.
        fixed: names of initializers that keep their values.
    """
    chosen = {each for weight in weights for each in _as_read(weight)}
    seen = {*fixed, *(weight.name or "" for weight in weights)}
    for node in _nodes_behind(graph, chosen):
        if node.op_type in _BIASED:
            slots = node.inputs[2:3] if node.inputs[1] in chosen else ()
        else:
            slots = node.inputs if node.op_type == "Add" else ()
        for value in slots:
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            name = value.name or ""
            if node.op_type == "Add" and value.const_value.size == 1:
                continue
            if value.const_value.dtype == ir.DataType.FLOAT and name not in seen:
                seen.add(name)
                yield value


def _as_read(weight: ir.Value) -> Iterator[ir.Value]:
    """Yield a weight, and what it is behind quantisation: layers read that."""
    waiting = [weight]
    while waiting:
        value = waiting.pop()
        yield value
        waiting += [
            use.node.outputs[0] for use in value.uses() if use.node.op_type in _ON_A_GRID and use.idx == 0
        ]


def _nodes_behind(graph: ir.Graph, sources: set[ir.Value]) -> Iterator[ir.Node]:
    """Yield the nodes that gradients of the values pass through, in order; subgraphs' reads count too."""
    reached = set(sources)
    for node in graph:
        if any(value in reached for value in _reads(node)):
            yield node
            if node.op_type not in _DISCRETE:
                reached.update(value for value in node.outputs if _is_real(value))


def _is_real(value: ir.Value) -> bool:
    """Return whether a value may have real numbers; a value of unknown type may."""
    node = value.producer()
    if node is not None and node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to", ir.DataType.FLOAT)).is_floating_point()
    return value.dtype is None or value.dtype.is_floating_point()


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for subgraph in _subgraphs(node):
        for inner in subgraph.all_nodes():
            yield from (value for value in inner.inputs if value is not None)
        yield from subgraph.outputs


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found
