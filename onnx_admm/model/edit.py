"""Handles on nodes and values, and the few general edits that passes make of a graph.

A handle stands for one node or value of one model; it stays valid while that node or value is in the graph.
Only ``ModelView`` applies edits: passes read through handles and call its methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_admm.errors import UsageError
from onnx_admm.model.constants import constant_tensor, why_fixed
from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION
from onnx_admm.model.loading.map_outputs import tail_of
from onnx_admm.model.names import label

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ValueRef:
    """One value of a graph."""

    ir_value: ir.Value = field(repr=False)

    @property
    def name(self) -> str:
        """Name in the graph."""
        return self.ir_value.name or ""

    @property
    def shape(self) -> tuple[int | str | None, ...] | None:
        """Stored shape with symbols; None where the file does not state it."""
        return stored_shape(self.ir_value)

    @property
    def dtype(self) -> str | None:
        """Name of the element type, of the stored tensor where there is one; None where unknown."""
        tensor = constant_tensor(self.ir_value)
        dtype = self.ir_value.dtype if tensor is None else tensor.dtype
        return None if dtype is None else dtype.name.lower()

    @property
    def is_output(self) -> bool:
        """Whether it is an output of its graph."""
        return self.ir_value.is_graph_output()

    @property
    def fixed(self) -> str | None:
        """Why the values of a stored tensor must stay ("is an output of the model"); else None."""
        return why_fixed(self.ir_value)

    @property
    def constant_shape(self) -> tuple[int, ...] | None:
        """Shape of the constant, which is not read; None where there is none."""
        tensor = constant_tensor(self.ir_value)
        return None if tensor is None else tuple(tensor.shape.numpy())

    def constant(self) -> Array | None:
        """Return a copy of the constant of an initializer or a Constant node; else None."""
        tensor = constant_tensor(self.ir_value)
        return None if tensor is None else np.array(tensor.numpy())

    def producer(self) -> NodeRef | None:
        """Return the node that computes it; None for inputs and initializers."""
        node = self.ir_value.producer()
        return None if node is None else NodeRef(node)

    def uses(self) -> tuple[NodeRef, ...]:
        """Return the nodes that read it, once for each input, subgraphs included."""
        return tuple(NodeRef(use.node) for use in self.ir_value.uses())


@dataclass(frozen=True, slots=True)
class NodeRef:
    """One node of a graph."""

    ir_node: ir.Node = field(repr=False)
    scope: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Name of the node, else of its first output."""
        return label(self.ir_node)

    @property
    def op_type(self) -> str:
        """Operator; one outside the default domain is prefixed by it."""
        domain = self.ir_node.domain
        return self.ir_node.op_type if domain in ("", "ai.onnx") else f"{domain}::{self.ir_node.op_type}"

    @property
    def inputs(self) -> tuple[ValueRef | None, ...]:
        """Input values; None where an optional input is left out."""
        return tuple(None if value is None else ValueRef(value) for value in self.ir_node.inputs)

    @property
    def outputs(self) -> tuple[ValueRef, ...]:
        """Output values; outputs left out have an empty name."""
        return tuple(ValueRef(value) for value in self.ir_node.outputs)

    def input(self, index: int) -> ValueRef | None:
        """Return input ``index``, None where it is left out."""
        return self.inputs[index] if index < len(self.ir_node.inputs) else None

    def shares_graph(self, other: NodeRef) -> bool:
        """Return whether both nodes are in the same graph, not one in a subgraph of the other's."""
        return self.ir_node.graph is other.ir_node.graph

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value (a number, text, or a sequence of them)."""
        attribute = self.ir_node.attributes.get(name)
        return default if attribute is None or attribute.is_ref() else attribute.value


def stored_shape(value: ir.Value) -> tuple[int | str | None, ...] | None:
    """Return the value's shape with symbols, None where unknown."""
    if value.shape is None:
        return None
    return tuple(extent if isinstance(extent, int) else extent.value for extent in value.shape)


def new_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add an initializer that holds a copy of an array; the name is one that no value has."""
    tensor = ir.tensor(np.array(array, order="C"), name=name)
    value = ir.Value(name=name, const_value=tensor)
    value.dtype, value.shape = tensor.dtype, ir.Shape(tensor.shape.numpy())
    graph.register_initializer(value)
    return value


def add_constant(model: ir.Model, node: ir.Node, index: int, array: Array, name: str) -> ir.Value:
    """Give ``node`` a new constant as input ``index``: an initializer where possible, else a node.

    Functions have no initializers, and before IR version 4 every written initializer is a graph input too,
    which a subgraph cannot have.
    """
    graph = node.graph
    if graph is None:
        raise UsageError("the node is in no graph any more", where=label(node))
    free = free_name(name, taken_names(model))
    if graph is model.graph or (model.ir_version >= LEAST_IR_VERSION and graph in model.graphs()):
        value = new_initializer(graph, free, array)
    else:
        tensor = ir.tensor(np.array(array, order="C"), name=free)
        constant = ir.node("Constant", [], {"value": tensor})
        value = constant.outputs[0]
        value.name, value.dtype, value.shape = free, tensor.dtype, ir.Shape(array.shape)
        graph.insert_before(node, constant)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    return value


def taken_names(model: ir.Model) -> set[str | None]:
    """Return the names of all values of all graphs: an inner name must not hide an outer one."""
    taken: set[str | None] = set()
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        taken.update(value.name for value in (*graph.inputs, *graph.initializers.values()))
        taken.update(value.name for node in graph for value in node.outputs)
    tail = tail_of(model)
    return taken if tail is None else taken | tail.names


def free_name(name: str, taken: set[str | None]) -> str:
    """Return ``name``, with a number if it is taken, and mark it as taken."""
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def raise_ir_version(model: ir.Model, version: int) -> None:
    """Raise the stated IR version to at least ``version``."""
    model.ir_version = max(model.ir_version, version)


def bypass(node: ir.Node, replacement: ir.Value) -> None:
    """Remove ``node``; readers of its first output read ``replacement``.

    A graph output keeps its name, type and shape; where the replacement must keep its own name (an input, an
    initializer, another output), an Identity stays between them.
    """
    old, graph = node.outputs[0], node.graph
    if graph is None:
        raise UsageError("the node is in no graph any more", where=label(node))
    named = replacement.is_graph_input() or replacement.is_initializer() or replacement.is_graph_output()
    if old.is_graph_output() and named:
        replace_node(node, "Identity", [replacement], {})
        return
    name = old.name
    if old.is_graph_output():
        old.name = None
        replacement.name, replacement.type, replacement.shape = name, old.type, old.shape
    old.replace_all_uses_with(replacement, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def replace_node(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
) -> ir.Node:
    """Replace a node with one output by another operator; the output's value stays."""
    graph = node.graph
    if graph is None:
        raise UsageError("the node is in no graph any more", where=label(node))
    fresh = ir.node(op_type, inputs, dict(attributes), name=node.name)
    old, new = node.outputs[0], fresh.outputs[0]
    graph.insert_after(node, fresh)
    new.type, new.shape, name = old.type, old.shape, old.name
    old.name = None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
    graph.remove(node, safe=True)
    return fresh


def insert_before(
    model: ir.Model, place: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], name: str
) -> ir.Node:
    """Insert a node with one output in front of another; ``name`` gets a number if it is taken."""
    graph = place.graph
    if graph is None:
        raise UsageError("the node is in no graph any more", where=label(place))
    fresh = ir.node(op_type, inputs, name=free_name(name, taken_names(model)))
    fresh.outputs[0].name = fresh.name
    graph.insert_before(place, fresh)
    return fresh


def strip_unused(model: ir.Model) -> bool:
    """Remove nodes and initializers that nothing reads; defaults of inputs stay."""
    changed, has_subgraphs = False, any(graph is not model.graph for graph in model.graphs())
    while RemoveUnusedNodesPass()(model).modified:
        changed = True
        if has_subgraphs:
            _detach_removed(model)
    return changed


def _detach_removed(model: ir.Model) -> None:
    """Take inputs from nodes in subgraphs of nodes that were removed: they would count as uses."""
    bodies = [*model.graphs(), *(function.graph for function in model.functions.values())]
    kept = {node for body in bodies for node in body}
    values = [value for body in bodies for node in body for value in node.outputs]
    values += [value for body in bodies for value in (*body.inputs, *body.initializers.values())]
    for value in values:
        for use in value.uses():
            if use.node not in kept:
                use.node.replace_input_with(use.idx, None)
