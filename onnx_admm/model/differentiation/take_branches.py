"""Branches that are always taken: an If whose condition is known becomes the nodes of one of its branches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from onnx_admm.model.differentiation.records import Array
from onnx_admm.model.operators import STANDARD

_PREFIX = "admm::branch"


def take_branches(proto: onnx.ModelProto, known: Mapping[str, Array]) -> onnx.ModelProto | None:
    """Replace every If whose condition is known by the branch that is taken; None where there is none.

    Args:
        proto: the model; it stays as it is.
        known: values that are the same in every step.
    """
    if not any(_is_decided(node, known) for node in proto.graph.node):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:], copy.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        if not _is_decided(node, known):
            copy.graph.node.append(node)
            continue
        branch = "then_branch" if np.asarray(known[node.input[0]]).all() else "else_branch"
        graph = next(attribute.g for attribute in node.attribute if attribute.name == branch)
        _insert(copy.graph, graph, node, f"{_PREFIX}{index}_{len(proto.graph.node)}")
    return copy


def _is_decided(node: onnx.NodeProto, known: Mapping[str, Array]) -> bool:
    return node.op_type == "If" and node.domain in STANDARD and node.input[0] in known


def _insert(target: onnx.GraphProto, branch: onnx.GraphProto, node: onnx.NodeProto, prefix: str) -> None:
    """Put a branch's nodes and initializers into the graph around it, under names of their own."""
    own = {tensor.name for tensor in branch.initializer} | {
        name for one in branch.node for name in one.output
    }
    names = {name: f"{prefix}::{name}" for name in own if name}
    for tensor in branch.initializer:
        added = target.initializer.add()
        added.CopyFrom(tensor)
        added.name = names[tensor.name]
    for inner in branch.node:
        target.node.append(_in_scope(inner, names))
    for port, name in zip(branch.output, node.output, strict=False):
        if name:
            source = names.get(port.name, port.name)
            target.node.append(helper.make_node("Identity", [source], [name], name=f"{node.name}::{name}"))


def _in_scope(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a node with names replaced, in its subgraphs too, except for their own names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for values in (copy.input, copy.output):
        renamed = [names.get(name, name) for name in values]
        del values[:]
        values.extend(renamed)
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            _rename_graph(attribute.g, names)
    return copy


def _rename_graph(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    own = {port.name for port in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    outer = {old: new for old, new in names.items() if old not in own}
    nodes = [_in_scope(node, outer) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for port in graph.output:
        port.name = outer.get(port.name, port.name)
