"""A model as records of static shape: shapes by inference, and what inference leaves open by one run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.differentiation.records import Array, Attribute, GraphNode, Shape, StaticGraph
from onnx_admm.model.operators import STANDARD

Run = Callable[[bytes, Mapping[str, Array], Sequence[str]], Sequence[object]]
"""Runs a serialised model on feeds and gives the named values."""

_MOST_KNOWN = 4096
"""Elements of an integer value that is computed once and for all."""

_MOST_NUMBERS = 8
"""Elements up to which stored numbers are constants too: an exponent, the scales of a resizing."""

_OF_SHAPES = {"Shape", "Size"}
"""Operators whose result follows from the shape of their input, whatever it holds."""

_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def read_graph(proto: onnx.ModelProto, feeds: Mapping[str, Array], run: Run) -> StaticGraph:
    """Read a model as it is for inputs of the feeds' shapes.

    Args:
        proto: the model; Constant nodes become initializers.
        feeds: an array for each input: its shape is the input's, and its values go into the one run that
            tells what shape inference leaves open.
        run: runs a model.

    Raises:
        UnsupportedModel: the model does not run on the feeds, or a value is no tensor.
    """
    graph = proto.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if (value := _constant_of(node)) is None:
            nodes.append(_read_node(node))
        else:
            constants[node.output[0]] = value
    inputs = tuple(port.name for port in graph.input if port.name not in constants)
    shapes, dtypes = _inferred(proto)
    for name, array in {**constants, **{name: feeds[name] for name in inputs}}.items():
        shapes[name], dtypes[name] = np.shape(array), np.asarray(array).dtype
    read = StaticGraph(
        nodes=tuple(nodes),
        inputs=inputs,
        outputs=tuple(port.name for port in graph.output),
        constants=constants,
        known={name: array for name, array in constants.items() if _is_small_integer(array)},
        shapes=shapes,
        dtypes=dtypes,
        opsets={
            ("" if entry.domain in STANDARD else entry.domain): entry.version for entry in proto.opset_import
        },
    )
    return _traced(read, proto, {name: feeds[name] for name in inputs}, run)


def standard_opset(proto: onnx.ModelProto) -> int:
    """Version of the default domain."""
    return next((entry.version for entry in proto.opset_import if entry.domain in STANDARD), 1)


def with_fixed_inputs(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """Return a copy whose inputs have these shapes, and which states no other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    for port in copy.graph.input:
        if port.name in shapes:
            kind = port.type.tensor_type.elem_type
            port.CopyFrom(helper.make_tensor_value_info(port.name, kind, shapes[port.name]))
    for port in copy.graph.output:
        port.type.tensor_type.ClearField("shape")
    return copy


def _inferred(proto: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, np.dtype[np.generic]]]:
    """Shapes and dtypes that standard shape inference finds, where they are complete."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, np.dtype[np.generic]] = {}
    for port in (*graph.input, *graph.value_info, *graph.output):
        kind = port.type.tensor_type
        extents = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
        if kind.elem_type and kind.HasField("shape") and all(extent >= 0 for extent in extents):
            shapes[port.name] = extents
            dtypes[port.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return shapes, dtypes


def _traced(graph: StaticGraph, proto: onnx.ModelProto, feeds: Mapping[str, Array], run: Run) -> StaticGraph:
    """Fill in open shapes and integers that follow from shapes alone, both by one run."""
    fixed = _independent(graph)
    asked = [
        name
        for node in graph.nodes
        for name in node.outputs
        if name and (name not in graph.shapes or (name in fixed and _may_be_known(graph, name)))
    ]
    if not asked:
        return graph
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
    shapes, dtypes, known = dict(graph.shapes), dict(graph.dtypes), dict(graph.known)
    for name, value in zip(asked, run(copy.SerializeToString(), feeds, asked), strict=True):
        if not isinstance(value, np.ndarray):
            raise UnsupportedModel("a value is no tensor", where=name, got=type(value).__name__)
        shapes[name], dtypes[name] = value.shape, value.dtype
        if name in fixed and _is_small_integer(value):
            known[name] = value
    return replace(graph, shapes=shapes, dtypes=dtypes, known=known)


def _independent(graph: StaticGraph) -> Collection[str]:
    """Values that no input's content has a say in, stored numbers aside that are not integers."""
    settled = {name for name, array in graph.constants.items() if _is_small_integer(array)}
    for node in graph.nodes:
        if node.operator in _RANDOM or not node.reads:
            continue
        if node.operator in _OF_SHAPES or all(name in settled for name in node.reads):
            settled.update(name for name in node.outputs if name)
    return settled


def _may_be_known(graph: StaticGraph, name: str) -> bool:
    return int(np.prod(graph.shapes[name], dtype=np.int64)) <= _MOST_KNOWN


def _is_small_integer(array: Array) -> bool:
    """Whether an array is of use to a rule as a constant: integers and a few numbers."""
    return array.size <= _MOST_KNOWN and (array.dtype.kind in "iub" or array.size <= _MOST_NUMBERS)


def _constant_of(node: onnx.NodeProto) -> Array | None:
    if node.op_type != "Constant" or node.domain not in STANDARD:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return numpy_helper.to_array(value)
        case "value_float" | "value_floats":
            return np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            return np.asarray(value, np.int64)
        case _:
            return None


def _read_node(node: onnx.NodeProto) -> GraphNode:
    found = {entry.name: _attribute_of(entry) for entry in node.attribute}
    return GraphNode(
        operator=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={name: value for name, value in found.items() if value is not None},
        domain="" if node.domain in STANDARD else node.domain,
        name=node.name,
        stored=node.SerializeToString(),
        captured=tuple(sorted(_captured(node))),
    )


def _captured(node: onnx.NodeProto) -> set[str]:
    """Values from outside that the subgraphs of a node read."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {port.name for port in graph.input} | {tensor.name for tensor in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            read = {name for inner in graph.node for name in (*inner.input, *_captured(inner)) if name}
            found |= (read | {port.name for port in graph.output}) - own
    return found


def _attribute_of(attribute: onnx.AttributeProto) -> Attribute | None:
    value = helper.get_attribute_value(attribute)
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.STRING:
            return str(value.decode())
        case kinds.STRINGS:
            return tuple(text.decode() for text in value)
        case kinds.INTS | kinds.FLOATS:
            return tuple(value)
        case kinds.INT | kinds.FLOAT:
            return value  # type: ignore[no-any-return]
        case kinds.TENSOR:
            return numpy_helper.to_array(value)
        case _:
            return None
