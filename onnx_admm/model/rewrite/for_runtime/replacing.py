"""Edits that the rewrites share: put new nodes in the place of matched ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_admm.model import edit
from onnx_admm.model.names import label
from onnx_admm.model.rewrite.for_runtime.match import RewriteContext


def insert_before(
    context: RewriteContext,
    place: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """Insert a node with one output in front of another; return the output."""
    node = ir.node(op_type, inputs, dict(attributes or {}))
    node.outputs[0].name = context.free_name(f"{label(place)}_{op_type}")
    graph = place.graph
    if graph is None:
        raise ValueError("the node is in no graph any more")
    node.name = node.outputs[0].name
    graph.insert_before(place, node)
    return node.outputs[0]


def insert_after(
    context: RewriteContext, place: ir.Node, op_type: str, attributes: Mapping[str, Any] | None = None
) -> ir.Node:
    """Insert a node with one output behind another's first output; readers read the new one.

    The new node's output takes the name, type and shape of the old one.
    """
    old, graph = place.outputs[0], place.graph
    if graph is None:
        raise ValueError("the node is in no graph any more")
    node = ir.node(op_type, [None], dict(attributes or {}))
    new = node.outputs[0]
    new.type, new.shape, name = old.type, old.shape, old.name
    node.name = context.free_name(f"{name}_{op_type}")
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    node.replace_input_with(0, old)
    old.name, new.name = context.free_name(f"{name}_before_{op_type}"), name
    graph.insert_after(place, node)
    return node


def replace(
    context: RewriteContext,
    root: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Node:
    """Replace the last node of a match; nodes that nothing reads any more are removed by the caller."""
    return edit.replace_node(root, op_type, inputs, attributes or {})


def constant_for(context: RewriteContext, node: ir.Node, index: int, array: Any, name: str) -> None:
    """Give a node a new constant as input ``index``."""
    edit.add_constant(context.view.graph_ir, node, index, np.asarray(array), context.free_name(name))
