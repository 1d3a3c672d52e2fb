"""Records as a serialised model that a runtime loads."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_admm.model.differentiation.records import Attribute, GraphNode, StaticGraph, Subgraph

_IR_VERSION = 10
"""The newest that ONNX Runtime 1.19 reads; nothing that is written here needs a newer one."""

_NAME = "step"


def write_graph(graph: StaticGraph) -> bytes:
    """Serialise a graph as a ModelProto; every input and output states its type and shape."""
    body = helper.make_graph(
        [_node(node) for node in graph.nodes],
        _NAME,
        [_value(graph, name) for name in graph.inputs],
        [_value(graph, name) for name in graph.outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in graph.constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    return helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


def _value(graph: StaticGraph, name: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(graph.dtypes[name])
    return helper.make_tensor_value_info(name, kind, graph.shapes[name])


def _node(node: GraphNode) -> onnx.NodeProto:
    if node.stored is None:
        proto = onnx.NodeProto(op_type=node.operator, domain=node.domain, name=node.name)
        proto.attribute.extend(_attribute(name, value) for name, value in node.attributes.items())
    else:
        proto = onnx.NodeProto.FromString(node.stored)
        del proto.input[:], proto.output[:]
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    return proto


def _attribute(name: str, value: Attribute) -> onnx.AttributeProto:
    if isinstance(value, Subgraph):
        return helper.make_attribute(name, _subgraph(value))
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(value))
    return helper.make_attribute(name, value)


def _subgraph(graph: Subgraph) -> onnx.GraphProto:
    def ports(names: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
        return [onnx.ValueInfoProto(name=name) for name in names]

    nodes = [_node(node) for node in graph.nodes]
    return helper.make_graph(nodes, "body", ports(graph.inputs), ports(graph.outputs))
