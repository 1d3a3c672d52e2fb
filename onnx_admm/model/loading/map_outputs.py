"""Map outputs: nodes that give maps, and all that follows them, are kept outside the graph in memory.

Classifiers of sklearn-onnx, onnxmltools and Core ML end in a ZipMap, which gives a sequence of maps. The IR
has no map type. So reading removes such nodes, with everything behind them (the tail), and the tensors that
they read become outputs in their place: they keep their names, no pass changes their meaning, and the result
can be judged by them. Writing restores the tail.

    in the file    ... -> p -> ZipMap -> z (output)
    in memory      ... -> p (output)
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.files.guards import all_graphs

_KEY = "onnx_admm.map_tail"
"""Key in the graph's ``meta``."""


@dataclass(frozen=True)
class MapTail:
    """The part that was removed from a graph.

    Attributes:
        nodes: serialised NodeProtos, in graph order.
        outputs: places among the graph's outputs, in rising order, and the serialised ValueInfoProtos.
        value_info: serialised ValueInfoProtos of inner values of the tail.
        shown: tensors that the tail reads and that are outputs only in its place.
        names: names of all values the tail computes.
        opsets: versions of the operator sets it uses, by domain.
    """

    nodes: tuple[bytes, ...]
    outputs: tuple[tuple[int, bytes], ...]
    value_info: tuple[bytes, ...]
    shown: tuple[str, ...]
    names: frozenset[str]
    opsets: tuple[tuple[str, int], ...]

    def default_operators(self) -> frozenset[str]:
        """Return the operators of the default domain: they must mean the same at another opset."""
        protos = (onnx.NodeProto.FromString(node) for node in self.nodes)
        found = (each for proto in protos for each in _nested_nodes(proto))
        return frozenset(node.op_type for node in found if node.domain in ("", "ai.onnx"))

    def contract(self) -> tuple[tuple[int, str, str], ...]:
        """Return the place, name and type of each removed output."""
        infos = ((place, onnx.ValueInfoProto.FromString(data)) for place, data in self.outputs)
        return tuple((place, info.name, type_text(info.type)) for place, info in infos)


def tail_of(model: ir.Model) -> MapTail | None:
    """Return the tail that was removed from a model; None where there was none."""
    tail = model.graph.meta.get(_KEY)
    return tail if isinstance(tail, MapTail) else None


def attach_tail(model: ir.Model, tail: MapTail | None) -> None:
    """Record the tail that was removed from a model."""
    if tail is not None:
        model.graph.meta[_KEY] = tail


def drop_tail(model: ir.Model) -> None:
    """Remove the tail of a copy whose outputs change, so that it is not restored."""
    model.graph.meta.pop(_KEY, None)


def cut_tail(proto: onnx.ModelProto, where: str) -> MapTail | None:
    """Remove the tail from a model that was just read and return it; None where no node gives maps.

    Raises:
        UnsupportedModel: an input is a map.
    """
    for value in proto.graph.input:
        if _holds_map(value.type):
            raise UnsupportedModel(
                f"input {value.name} is a {type_text(value.type)}; maps as inputs are not supported",
                where=where,
                hint="Export the model with tensors as inputs (no DictVectorizer or CastMap at its start).",
            )
    graph = proto.graph
    nodes = _tail_nodes(graph)
    names = frozenset(name for node in nodes for name in node.output if name)
    infos = tuple(value.SerializeToString() for value in graph.value_info if value.name in names)
    for inner in all_graphs(proto):
        _drop_map_info(inner.value_info)
    for function in proto.functions:
        _drop_map_info(function.value_info)
    if not nodes:
        return None
    outputs = tuple(
        (place, value.SerializeToString()) for place, value in enumerate(graph.output) if value.name in names
    )
    kept_nodes = [node for node in graph.node if not names.intersection(node.output)]
    kept_outputs = [value for value in graph.output if value.name not in names]
    shown = _show_inputs(graph, nodes, names, {value.name for value in kept_outputs})
    tail = MapTail(
        nodes=tuple(node.SerializeToString() for node in nodes),
        outputs=outputs,
        value_info=infos,
        shown=tuple(value.name for value in shown),
        names=names,
        opsets=tuple((entry.domain, entry.version) for entry in proto.opset_import),
    )
    kept_info = [value for value in graph.value_info if value.name not in names]
    rest = onnx.GraphProto(node=kept_nodes, output=[*kept_outputs, *shown], value_info=kept_info)
    for name in ("node", "output", "value_info"):
        graph.ClearField(name)
    graph.MergeFrom(rest)
    return tail


def put_back(proto: onnx.ModelProto, tail: MapTail | None) -> None:
    """Restore the tail of a model to be written."""
    if tail is None:
        return
    graph = proto.graph
    shown = set(tail.shown)
    outputs = [value for value in graph.output if value.name not in shown]
    for place, data in tail.outputs:
        outputs.insert(place, onnx.ValueInfoProto.FromString(data))
    whole = onnx.GraphProto(
        node=[onnx.NodeProto.FromString(node) for node in tail.nodes],
        output=outputs,
        value_info=[onnx.ValueInfoProto.FromString(value) for value in tail.value_info],
    )
    graph.ClearField("output")
    graph.MergeFrom(whole)
    known = {entry.domain for entry in proto.opset_import}
    used = {node.domain for data in tail.nodes for node in _nested_nodes(onnx.NodeProto.FromString(data))}
    for domain, version in tail.opsets:
        if domain in used and domain not in known:
            proto.opset_import.append(onnx.helper.make_opsetid(domain, version))


def type_text(kind: onnx.TypeProto) -> str:
    """Return a type in words: ``sequence of map from int64 to float``."""
    match kind.WhichOneof("value"):
        case "map_type":
            key = onnx.TensorProto.DataType.Name(kind.map_type.key_type).lower()
            return f"map from {key} to {type_text(kind.map_type.value_type)}"
        case "sequence_type":
            return f"sequence of {type_text(kind.sequence_type.elem_type)}"
        case "optional_type":
            return f"optional {type_text(kind.optional_type.elem_type)}"
        case "tensor_type" | "sparse_tensor_type" as field:
            return str(onnx.TensorProto.DataType.Name(getattr(kind, field).elem_type)).lower()
        case _:
            return "of unknown type"


# -- inside ----------------------------------------------------------------------------------


def _holds_map(kind: onnx.TypeProto) -> bool:
    match kind.WhichOneof("value"):
        case "map_type":
            return True
        case "sequence_type":
            return _holds_map(kind.sequence_type.elem_type)
        case "optional_type":
            return _holds_map(kind.optional_type.elem_type)
        case _:
            return False


def _tail_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of the main graph that give maps, and every node behind them."""
    maps = {value.name for value in (*graph.output, *graph.value_info) if _holds_map(value.type)}
    nodes = []
    for node in graph.node:  # in topological order
        gives_maps = (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap")
        if gives_maps or maps.intersection(node.output) or maps.intersection(_reads(node)):
            maps.update(name for name in node.output if name)
            nodes.append(node)
    return nodes


def _show_inputs(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], names: frozenset[str], outputs: set[str]
) -> list[onnx.ValueInfoProto]:
    """Return the outputs that stand for the tail: the tensors of the main graph that it reads."""
    infos = {value.name: value for value in (*graph.input, *graph.value_info)}
    infos |= {
        tensor.name: onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }
    here = {name for node in graph.node for name in node.output if name} | infos.keys()
    read = dict.fromkeys(name for node in nodes for name in _reads(node))
    return [
        infos.get(name) or onnx.helper.make_empty_tensor_value_info(name)
        for name in read
        if name in here and name not in names and name not in outputs
    ]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node or its subgraphs read, including those that a subgraph computes itself."""
    for each in _nested_nodes(node):
        yield from (name for name in each.input if name)
    for graph in _subgraphs(node):
        yield from (value.name for value in graph.output)


def _nested_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for graph in _subgraphs(node):
        yield from graph.node


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    pending = [node]
    while pending:
        for attribute in pending.pop().attribute:
            graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else [*attribute.graphs]
            for graph in graphs:
                yield graph
                pending.extend(graph.node)


def _drop_map_info(infos: MutableSequence[onnx.ValueInfoProto]) -> None:
    """Remove stored types of inner values that are maps: they follow from the nodes."""
    for index in reversed(range(len(infos))):
        if _holds_map(infos[index].type):
            del infos[index]
