"""Shapes of a model's values, inferred node by node; shape computations are evaluated in between."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from onnx_admm.limits import current_budget
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION
from onnx_admm.model.folding.evaluate import Array, NotEvaluated, evaluate_node, is_evaluable
from onnx_admm.model.loading.onnx_worker import inferred_shapes
from onnx_admm.model.operators import Trait, has_trait

_SMALL = 4096  # elements of a shape computation; anything larger is data
_DATA_BYTES = 1024  # constants up to this size are passed to the inference of a node
_ROUNDS = 64
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_FAILURES = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,  # of a node that is not valid, in a file that is only looked at
    ValueError,
    RuntimeError,
)


class ShapePropagation:
    """One pass over a model in graph order that writes shapes and types into its values.

    ONNX infers the outputs of one node at a time from types, shapes and small constants of its inputs. Where
    a node computes on constants or on a known shape, its output becomes a constant (of this model: pass a
    copy), which the next nodes use. So a chain of Reshapes with computed extents takes one pass, and the
    model is never serialised as a whole. A node with subgraphs, or one that calls a function, is inferred as
    a model of its own, repeatedly while shape computations inside find something.

    Args:
        model: the model to write into; its nodes are sorted.
        opset: version of the default operator set.
    """

    def __init__(self, model: ir.Model, opset: int) -> None:
        self._model = model
        self._opset = opset
        self._versions = {("" if d == "ai.onnx" else d): v for d, v in model.opset_imports.items()} | {
            "": opset
        }
        self._ir_version = max(model.ir_version or 0, LEAST_IR_VERSION)
        self._imports = [
            onnx.helper.make_opsetid(domain, version) for domain, version in self._versions.items()
        ]
        self._budget = current_budget()
        self._functions: dict[tuple[str, str], list[onnx.FunctionProto]] = {}

    def run(self) -> None:
        """Write inferred shapes and types into the values of the main graph and its subgraphs."""
        for value in self._model.graph.initializers.values():
            _describe_constant(value)
        for node in self._model.graph:
            self._infer(node)
            _keep_shape(node)
            self._fold(node)

    # -- one node --------------------------------------------------------------------------

    def _infer(self, node: ir.Node) -> None:
        if (tensor := _stored_by(node)) is not None:
            node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        elif any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            self._infer_with_graphs(node)
        elif (schema := self._schema(node)) is None or not schema.has_type_and_shape_inference_function:
            if schema is not None or self._is_call(node):
                self._infer_as_model(node)
        else:
            self._infer_plain(node, schema)

    def _infer_plain(self, node: ir.Node, schema: onnx.defs.OpSchema) -> None:
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for value in node.inputs:
            if value is None or not value.name or value.name in types:
                continue
            types[value.name] = _type_of(value)
            if (tensor := _small(value)) is not None:
                data[value.name] = ir.serde.serialize_tensor(tensor)
        try:
            proto = ir.serde.serialize_node(node)
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except _FAILURES:
            return
        for value in node.outputs:
            if value.name and (inferred := found.get(value.name)) is not None:
                _take(value, inferred)

    def _schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            return onnx.defs.get_schema(node.op_type, self._versions.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None

    # -- nodes with graphs or functions in them ----------------------------------------------

    def _infer_with_graphs(self, node: ir.Node) -> None:
        for _ in range(_ROUNDS):
            if not self._infer_as_model(node):
                return
            changed = False
            for graph in _graphs_in(node):
                for inner in graph:
                    if not any(attribute.type in _GRAPHS for attribute in inner.attributes.values()):
                        self._infer(inner)
                    changed |= self._fold(inner)
            if not changed:
                return

    def _infer_as_model(self, node: ir.Node) -> bool:
        """Infer the node as a model whose inputs are its operands; return False where that fails."""
        graph = onnx.GraphProto(name="node")
        for value in _read_by(node):
            if (tensor := _small(value)) is not None:
                graph.initializer.append(ir.serde.serialize_tensor(tensor))
                graph.initializer[-1].name = value.name or ""
            else:
                graph.input.append(onnx.ValueInfoProto(name=value.name, type=_type_of(value)))
        try:
            graph.node.append(ir.serde.serialize_node(node))
            graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name)
            model = onnx.ModelProto(ir_version=self._ir_version, opset_import=self._imports, graph=graph)
            model.functions.extend(self._called(node))
        except _FAILURES:
            return False
        inferred = inferred_shapes(model)
        if inferred is None:
            return False
        types = {value.name: value.type for value in inferred.graph.output}
        for value in node.outputs:
            if value.name in types and types[value.name].WhichOneof("value"):
                _take(value, types[value.name])
        _take_inner(node, inferred.graph.node[0])
        return True

    def _is_call(self, node: ir.Node) -> bool:
        return any(key[:2] == (node.domain, node.op_type) for key in self._model.functions)

    def _called(self, node: ir.Node) -> list[onnx.FunctionProto]:
        """Return the functions that a node calls, directly and through others; all where it has subgraphs."""
        if not self._model.functions:
            return []
        key = (node.domain, node.op_type) if self._is_call(node) else ("", "")
        if key not in self._functions:
            pending, found = [key], dict[tuple[str, ...], ir.Function]()
            while pending:
                domain, name = pending.pop()
                for place, function in self._model.functions.items():
                    if place not in found and (key == ("", "") or place[:2] == (domain, name)):
                        found[place] = function
                        pending.extend((inner.domain, inner.op_type) for inner in function.all_nodes())
            self._functions[key] = [ir.serde.serialize_function(function) for function in found.values()]
        return self._functions[key]

    # -- shape computations --------------------------------------------------------------------

    def _fold(self, node: ir.Node) -> bool:
        """Replace a small computation on constants or shapes by a constant; return whether it is one."""
        if node.op_type == "Constant" or len(node.outputs) != 1 or not is_evaluable(node):
            return False
        array = _shape_value(node) if node.op_type in ("Shape", "Size") else self._small_value(node)
        if array is None or array.size > _SMALL:
            return False
        _become_constant(node, array)
        return True

    def _small_value(self, node: ir.Node) -> Array | None:
        tensors = []
        for value in node.inputs:
            tensor = None if value is None else constant_tensor(value)
            if value is not None and (tensor is None or tensor.size > _SMALL):
                return None
            tensors.append(tensor)
        arrays = [None if tensor is None else np.asarray(tensor.numpy()) for tensor in tensors]
        try:
            return evaluate_node(node, arrays, self._opset, _SMALL, self._budget)[0]
        except NotEvaluated:
            return None


def is_standard(node: ir.Node) -> bool:
    """Return whether ONNX itself defines the operator."""
    return node.domain in ("", "ai.onnx") and bool(onnx.defs.has(node.op_type, ""))


def extents(value: ir.Value) -> tuple[int | None, ...]:
    """Return the value's shape, None for unknown extents; () where it has none, so check first."""
    dims = value.shape.dims if value.shape is not None else ()
    return tuple(extent if isinstance(extent, int) else None for extent in dims)


def known(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """Return the shape where every extent is known, else None."""
    if shape is None or any(extent is None for extent in shape):
        return None
    return tuple(extent for extent in shape if extent is not None)


# -- values and their types ------------------------------------------------------------------


def _stored_by(node: ir.Node) -> ir.TensorProtocol | None:
    return constant_tensor(node.outputs[0]) if node.op_type == "Constant" and node.outputs else None


def _describe_constant(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is not None and (value.shape is None or value.dtype is None):
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype


def _small(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = constant_tensor(value)
    return tensor if tensor is not None and tensor.nbytes <= _DATA_BYTES else None


def _type_of(value: ir.Value) -> onnx.TypeProto:
    """Return the type and shape of a value; a negative extent, as some files store, is unknown."""
    found = ir.serde.serialize_value(value).type if value.type is not None else onnx.TypeProto()
    for extent in found.tensor_type.shape.dim if found.HasField("tensor_type") else ():
        if extent.dim_value < 0:
            extent.Clear()
    return found


def _take(value: ir.Value, inferred: onnx.TypeProto) -> None:
    """Write an inferred type and shape; the shape of an unknown operator's output stays.

    A negative extent is that of a window larger than its input. It becomes unknown: onnx's inference of the
    next nodes may end the process on it.
    """
    shape = ir.serde.deserialize_type_proto_for_shape(inferred)
    if shape is not None:
        negative = [isinstance(extent, int) and extent < 0 for extent in shape.dims]
        if any(negative):
            pairs = zip(shape.dims, negative, strict=True)
            shape = ir.Shape([None if is_negative else extent for extent, is_negative in pairs])
        value.shape = shape
    kind = ir.serde.deserialize_type_proto_for_type(inferred)
    if kind is not None:
        value.type = kind


def _take_inner(node: ir.Node, proto: onnx.NodeProto) -> None:
    """Write the types and shapes inferred for values inside a node's subgraphs."""
    protos = {attribute.name: attribute for attribute in proto.attribute}
    pending = [(node, protos)]
    while pending:
        node, protos = pending.pop()
        for name, attribute in node.attributes.items():
            if attribute.type not in _GRAPHS or name not in protos:
                continue
            found = (
                [protos[name].g] if attribute.type == ir.AttributeType.GRAPH else list(protos[name].graphs)
            )
            graphs = [attribute.as_graph()] if len(found) == 1 else list(attribute.as_graphs())
            for graph, inferred in zip(graphs, found, strict=True):
                infos = (*inferred.input, *inferred.value_info, *inferred.output)
                types = {info.name: info.type for info in infos}
                for value in _defined(graph):
                    if value.name in types and types[value.name].WhichOneof("value"):
                        _take(value, types[value.name])
                inner = zip(graph, inferred.node, strict=True)
                pending.extend((each, {a.name: a for a in other.attribute}) for each, other in inner)


def _defined(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _graphs_in(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield every subgraph of a node, each before those in it."""
    pending = [node]
    while pending:
        for attribute in pending.pop().attributes.values():
            if attribute.type not in _GRAPHS:
                continue
            is_one = attribute.type == ir.AttributeType.GRAPH
            for graph in [attribute.as_graph()] if is_one else attribute.as_graphs():
                yield graph
                pending.extend(graph)


def _read_by(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node and its subgraphs read from around it; each once."""
    read = dict.fromkeys(value for value in node.inputs if value is not None and value.name)
    inside: set[ir.Value] = set()
    for graph in _graphs_in(node):
        inside.update(_defined(graph), graph.initializers.values())
        for inner in graph:
            read.update(dict.fromkeys(value for value in inner.inputs if value is not None and value.name))
        read.update(dict.fromkeys(value for value in graph.outputs if value.name))
    return [value for value in read if value not in inside]


# -- constants -------------------------------------------------------------------------------


def _shape_value(node: ir.Node) -> Array | None:
    source = node.inputs[0]
    shape = None if source is None or source.shape is None else known(extents(source))
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _become_constant(node: ir.Node, array: Array) -> None:
    node.op_type = "Constant"
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", ir.tensor(np.ascontiguousarray(array).reshape(array.shape))))
    node.outputs[0].shape = ir.Shape(array.shape)


def _keep_shape(node: ir.Node) -> None:
    """Give the output of a normalisation its input's shape: ONNX infers none for GroupNormalization."""
    source = node.inputs[0] if node.inputs else None
    if is_standard(node) and source is not None and has_trait(node, Trait.NORMALISES):
        output = node.outputs[0]
        if output.shape is None and source.shape is not None:
            output.shape = source.shape.copy()
            if source.dtype is not None:
                output.dtype = source.dtype
