"""Kernels: the nodes that a runtime runs, extracted one by one from its optimised graph."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_admm.model.analysis.profiles import LayerProfile
from onnx_admm.model.analysis.shapes import forget_wrong_shapes
from onnx_admm.model.names import label
from onnx_admm.model.view import ModelView

Array = npt.NDArray[Any]
Place = tuple[str, str]
"""Scope and name of a node."""

_LAYOUT = ("ReorderInput", "ReorderOutput")
_TELLING = {"i": 64, "u": 64, "b": 64, "f": 8}
"""Elements of a tensor whose values may affect the time, by kind of type (axes, a condition, scales)."""

_BRANCHES = ("PRelu",)
"""Kernels that branch at every value: with equal values the processor learns to predict them."""

_LAYOUT_NUMBER = re.compile(r"_token_\d+$")
"""What the runtime adds to the names of nodes that it moves to another memory layout."""

_TAG = re.compile(r"onnx_admm_(\d+)_\d+")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One node of an optimised graph, and its inputs.

    Attributes:
        op_type: its operator.
        is_layout: whether it only converts data from one memory layout to another.
        key: what its time depends on: operator, attributes, types and shapes, and the values of small
            operands; equal for kernels that do the same work.
        feeds: input arrays, by name; constants are left out.
    """

    op_type: str
    is_layout: bool
    key: str
    feeds: Mapping[str, Array] = field(repr=False)
    _node: onnx.NodeProto = field(repr=False)
    _constants: tuple[onnx.TensorProto, ...] = field(repr=False)
    _model: onnx.ModelProto = field(repr=False)

    @property
    def constant_bytes(self) -> int:
        """Bytes of its constants."""
        return sum(tensor.ByteSize() for tensor in self._constants)

    def copies(self, count: int) -> tuple[bytes, Mapping[str, Array]]:
        """Return a model of ``count`` copies of the kernel, and its feeds; its output is the last copy's.

        All copies read the same values, except where the processor would learn to predict them: see
        ``_BRANCHES``.
        """
        graph = onnx.GraphProto(name="copies")
        graph.initializer.extend(self._constants)
        feeds = dict(self.feeds)
        for number in range(count):
            copy = graph.node.add()
            copy.CopyFrom(self._node)
            copy.name = f"copy_{number}"
            for index, name in enumerate(copy.output):
                if name:
                    copy.output[index] = f"{name}_{number}"
            if number and self.op_type in _BRANCHES and (first := copy.input[0]) in self.feeds:
                copy.input[0] = f"{first}_{number}"
                feeds[copy.input[0]] = _shifted(self.feeds[first], number)
        knows_shapes = not any(_subgraphs(self._node))  # branches may disagree with the shapes of one run
        for name, array in feeds.items():
            graph.input.append(_port(name, array, array.shape if knows_shapes else None))
        last = next(name for name in graph.node[-1].output if name)
        graph.output.append(onnx.ValueInfoProto(name=last))
        model = onnx.ModelProto(ir_version=self._model.ir_version, graph=graph)
        model.opset_import.extend(self._model.opset_import)
        model.functions.extend(self._model.functions)
        return model.SerializeToString(), feeds


@dataclass(frozen=True, slots=True)
class Traced:
    """A model with value names that can be recognised after a runtime has optimised it.

    Attributes:
        model: the renamed copy; inputs keep their names.
        places: places of the nodes of its main graph, in order.
        outputs: names of its outputs.
    """

    model: bytes
    places: tuple[Place, ...]
    outputs: tuple[str, ...]
    _reads: tuple[tuple[int, ...], ...]
    _readers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def owners(self, optimised: bytes, weighted: frozenset[Place]) -> list[Place | None]:
        """Return the node that each kernel counts for.

        A kernel computes one of the model's values, and with it all nodes on the path from values that other
        kernels compute; it counts for the last of them with a weight, else for the one whose value it is. A
        kernel whose value has a name of the runtime's counts for the node that reads its weight. Any other
        one that the runtime inserted counts like the kernel that reads it, or else like the one before.

        Args:
            optimised: the runtime's optimised form of ``model``.
            weighted: nodes with a weight.
        """
        nodes = _parse(optimised).graph.node
        tags = [_tag(node) for node in nodes]
        computed = {tag for tag in tags if tag is not None}
        stored = {tensor.name: math.prod(tensor.dims) for tensor in _parse(optimised).graph.initializer}
        owners = [
            self._reader_of_weight(node, stored, weighted)
            if tag is None
            else self._owner(tag, computed, weighted)
            for node, tag in zip(nodes, tags, strict=True)
        ]
        for index in range(len(nodes) - 1, -1, -1):
            if owners[index] is None:
                made = set(nodes[index].output)
                readers = (n for n in range(index + 1, len(nodes)) if made & set(nodes[n].input))
                owners[index] = next((owners[n] for n in readers if owners[n] is not None), None)
        for index in range(1, len(nodes)):
            owners[index] = owners[index] or owners[index - 1]
        return owners

    def _reader_of_weight(
        self, node: onnx.NodeProto, stored: Mapping[str, int], weighted: frozenset[Place]
    ) -> Place | None:
        """Return the node with a weight that a kernel is named for, or that reads its largest constant.

        Decoding nodes may lie between the constant and the node.
        """
        place = ("", without_layout(node.name))
        if place in weighted:
            return place
        largest = max((name for name in node.input if name in stored), key=stored.__getitem__, default="")
        seen, ahead = set[int](), list(self._readers.get(largest, ()))
        while ahead:
            number = ahead.pop(0)
            if self.places[number] in weighted:
                return self.places[number]
            if number not in seen:
                seen.add(number)
                ahead.extend(self._readers.get(_value_name(number), ()))
        return None

    def _owner(self, tag: int, computed: set[int], weighted: frozenset[Place]) -> Place:
        seen, ahead = {tag}, [tag]
        while ahead:
            number = ahead.pop(0)
            if self.places[number] in weighted:
                return self.places[number]
            further = [n for n in self._reads[number] if n not in computed and n not in seen]
            seen.update(further)
            ahead.extend(further)
        return self.places[tag]


def _value_name(number: int, index: int = 0) -> str:
    return f"onnx_admm_{number}_{index}"


def trace(view: ModelView) -> Traced:
    """Return a copy of the model whose values are named by the node that computes them."""
    copy = view.fork()
    forget_wrong_shapes(copy)  # the runtime would use them
    graph = copy.graph_ir.graph
    numbers: dict[ir.Node, int] = {}
    places, reads = [], []
    for number, node in enumerate(graph):
        numbers[node] = number
        places.append(("", label(node)))
        makers = (None if value is None else value.producer() for value in node.inputs)
        reads.append(tuple(numbers[maker] for maker in makers if maker is not None and maker in numbers))
    for node, number in numbers.items():
        for index, value in enumerate(node.outputs):
            if value.name:
                value.name = _value_name(number, index)
    readers: dict[str, list[int]] = {}
    for node, number in numbers.items():
        for operand in node.inputs:
            if operand is not None and operand.name:
                readers.setdefault(operand.name, []).append(number)
    outputs = tuple(value.name or "" for value in graph.outputs)
    by_name = {name: tuple(found) for name, found in readers.items()}
    return Traced(copy.to_bytes(maps=False), tuple(places), outputs, tuple(reads), by_name)


def expose(optimised: bytes) -> bytes:
    """Return the model with every value of its main graph as an output."""
    model = _parse(optimised)
    shown = {port.name for port in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    return model.SerializeToString()


def kernels_of(optimised: bytes, values: Mapping[str, Array]) -> list[Kernel | None]:
    """Return the kernels of an optimised graph, in its order; None where one reads a value that is no array.

    Args:
        optimised: the runtime's optimised form of a model.
        values: arrays by name: its inputs, and all computed values.
    """
    model = _parse(optimised)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [_kernel(node, model, constants, values) for node in model.graph.node]


def kernel_names(optimised: bytes) -> list[tuple[str, str]]:
    """Return name and operator of each kernel of an optimised graph, in its order."""
    return [(node.name, node.op_type) for node in _parse(optimised).graph.node]


def without_layout(name: str) -> str:
    """Return the name of a kernel as it was before the runtime moved it to another memory layout."""
    return _LAYOUT_NUMBER.sub("", name)


def idle_model(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bytes:
    """Return a model with these inputs and outputs that computes nothing, to time the call alone."""
    graph = onnx.GraphProto(name="idle")
    for name, array in inputs.items():
        graph.input.append(_port(name, array, array.shape))
    for number, array in enumerate(outputs.values()):
        name = f"idle_{number}"
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        graph.output.append(_port(name, array, array.shape))
    model = onnx.ModelProto(ir_version=8, graph=graph)
    model.opset_import.append(onnx.helper.make_opsetid("", 13))
    return model.SerializeToString()


def layer_model(layer: LayerProfile, channels: int | None = None) -> tuple[bytes, dict[str, Array]]:
    """Return the layer's node as a model of its own, and inputs for it.

    Operands without known values get noise, integers zeros.

    Args:
        layer: a layer with known shapes.
        channels: number of output channels to keep; None for all.
    """
    rng = np.random.default_rng(0)
    names, tensors, feeds = [], [], {}
    for index, operand in enumerate(layer.inputs):
        names.append(f"in_{index}" if operand.name else "")
        if not operand.name:
            continue
        shape = [extent or 0 for extent in operand.shape or ()]
        if channels is not None:
            _narrow(layer, index, shape, channels)
        kind = np.dtype(operand.dtype)
        if operand.values is not None and np.prod(shape) == len(operand.values):
            array: Array = np.array(operand.values).astype(kind).reshape(shape)
        else:
            array = (rng.normal(0.0, 0.1, shape) if kind.kind == "f" else np.zeros(shape)).astype(kind)
        if operand.is_constant:
            tensors.append(onnx.numpy_helper.from_array(array, names[-1]))
        else:
            feeds[names[-1]] = array
    outputs = [f"out_{index}" if operand.name else "" for index, operand in enumerate(layer.outputs)]
    node = onnx.NodeProto(op_type=layer.op_type, domain=layer.domain, input=names, output=outputs)
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in layer.attributes)
    graph = onnx.GraphProto(name="layer", node=[node], initializer=tensors)
    for name, array in feeds.items():
        graph.input.append(_port(name, array, array.shape))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name)
    model = onnx.ModelProto(ir_version=8, graph=graph)
    model.opset_import.append(onnx.helper.make_opsetid(layer.domain, layer.opset))
    if layer.domain:
        model.opset_import.append(onnx.helper.make_opsetid("", 17))
    return model.SerializeToString(), feeds


def _port(name: str, array: Array, shape: tuple[int, ...] | None) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _shifted(array: Array, number: int) -> Array:
    """Return the values shifted by up to half their deviation: signs may change, neighbours stay similar."""
    shift = np.random.default_rng(number).uniform(-0.5, 0.5) * float(array.std())
    return (array + shift).astype(array.dtype)


def _narrow(layer: LayerProfile, index: int, shape: list[int], channels: int) -> None:
    """Keep ``channels`` of the weight's output channels, and of a vector with one element for each."""
    if index == layer.operand and layer.out_axis is not None:
        shape[layer.out_axis] = channels
    elif layer.inputs[index].is_constant and shape == [layer.channels]:
        shape[0] = channels


def _kernel(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    constants: Mapping[str, onnx.TensorProto],
    values: Mapping[str, Array],
) -> Kernel | None:
    reads = list(dict.fromkeys(_reads(node)))
    feeds = {name: values[name] for name in reads if name in values and name not in constants}
    if any(name not in constants and name not in feeds for name in reads):
        return None
    kept = tuple(constants[name] for name in reads if name in constants)
    digest = hashlib.sha256()
    attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
    versions = sorted((opset.domain, opset.version) for opset in model.opset_import)
    digest.update(repr((node.domain, node.op_type, versions)).encode())
    for attribute in attributes:
        digest.update(attribute.SerializeToString(deterministic=True))
    for name in (*node.input, *reads[len(node.input) :]):
        digest.update(repr(_description(name, constants, feeds)).encode())
    digest.update(repr([bool(name) for name in node.output]).encode())
    is_layout = node.domain == "com.microsoft.nchwc" and node.op_type in _LAYOUT
    return Kernel(node.op_type, is_layout, digest.hexdigest()[:32], feeds, node, kept, model)


def _description(
    name: str, constants: Mapping[str, onnx.TensorProto], feeds: Mapping[str, Array]
) -> tuple[object, ...]:
    """Return the properties of an operand that the time depends on."""
    if not name:
        return ("left out",)
    if name in constants:
        tensor = constants[name]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).kind
        telling = math.prod(tensor.dims) <= _TELLING.get(kind, 0)
        values = onnx.numpy_helper.to_array(tensor).tolist() if telling else None
        return ("constant", tensor.data_type, tuple(tensor.dims), values)
    array = feeds[name]
    telling = array.dtype.kind != "f" and array.size <= _TELLING.get(array.dtype.kind, 0)
    return ("fed", str(array.dtype), array.shape, array.tolist() if telling else None)


def _parse(model: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.ParseFromString(model)
    return proto


def _tag(node: onnx.NodeProto) -> int | None:
    """Return the number of the model's node whose value a kernel computes."""
    found = next((match for name in (*node.output, node.name) if (match := _TAG.search(name))), None)
    return None if found is None else int(found.group(1))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names a node reads, its subgraphs' from outside included."""
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        yield from _captured(graph)


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {port.name for port in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        yield from (name for name in _reads(node) if name not in own)
        own.update(node.output)
    yield from (port.name for port in graph.output if port.name not in own)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
