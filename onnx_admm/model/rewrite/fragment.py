"""A piece of graph to be added, as plain data, and its bytes in a model file.

Sizes follow the protobuf wire format (a varint takes one byte for every 7 bits; a field costs its tag and, if
it is a message, its length) and onnx.proto: names are counted as one character each, as ``minify`` makes them
while there are no more than about fifty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION, Array, content_bytes, varint_bytes

AttributeValue = int | float | str | tuple[int, ...]

_SINCE = {
    "Add": 7, "BitShift": 11, "Cast": 6, "ConstantOfShape": 9, "CumSum": 11, "DequantizeLinear": 13,
    "Div": 7, "Expand": 8, "Gather": 1, "MatMul": 9, "MatMulInteger": 10, "Mod": 10,
    "Mul": 7, "Pad": 11, "Range": 11, "Reshape": 5, "ScatterElements": 11, "Slice": 10, "Split": 2, "Sub": 7,
    "TopK": 11,
}  # fmt: skip
"""Oldest opset at which an operator has the inputs and element types that decoders use."""

_TYPE_SINCE = {"float8_e4m3fn": (19, 9), "int4": (21, 10), "uint4": (21, 10)}
"""Oldest opset and IR version with an element type."""

_NAME = 3  # tag, length, one character


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node of the default domain; its name is left out, and so are attributes at their default."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class Fragment:
    """Nodes in order and their constants, written for one opset.

    Args:
        opset: version of the default operator set of the nodes.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeSpec] = []
        self.constants: dict[str, Array] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Return the name of a constant of that content; equal ones are stored once."""
        content = np.ascontiguousarray(np.asarray(array, dtype)).reshape(np.shape(array))
        key = (content.dtype.name, content.shape, content.tobytes())
        if key not in self._known:
            self._known[key] = self._fresh()
            self.constants[self._known[key]] = content
        return self._known[key]

    def add(self, op_type: str, *inputs: str, **attributes: AttributeValue) -> str:
        """Append a node with one output; return the output's name."""
        return self.add_many(op_type, inputs, 1, **attributes)[0]

    def add_many(
        self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: AttributeValue
    ) -> tuple[str, ...]:
        """Append a node; return its outputs' names."""
        names = tuple(self._fresh() for _ in range(outputs))
        self.nodes.append(NodeSpec(op_type, tuple(inputs), names, attributes))
        return names

    @property
    def file_bytes(self) -> int:
        """Bytes the nodes and constants add to a model file."""
        return sum(map(node_bytes, self.nodes)) + sum(map(tensor_bytes, self.constants.values()))

    @property
    def content_bytes(self) -> int:
        """Bytes of the constants' content alone, without names, types, dimensions and nodes."""
        return sum(map(content_bytes, self.constants.values()))

    @property
    def oldest_opset(self) -> int:
        """Oldest opset that has the operators and types used (Split is written for the fragment's own)."""
        types = [_TYPE_SINCE.get(array.dtype.name, (1, 1))[0] for array in self.constants.values()]
        return max((*(_SINCE[node.op_type] for node in self.nodes), *types), default=1)

    @property
    def least_ir_version(self) -> int:
        """Least IR version with the types used and initializers that are no inputs."""
        types = [_TYPE_SINCE.get(array.dtype.name, (1, 1))[1] for array in self.constants.values()]
        return max((LEAST_IR_VERSION, *types))

    def _fresh(self) -> str:
        self._count += 1
        return f"v{self._count}"


def tensor_bytes(array: Array) -> int:
    """Return the bytes an initializer adds to the graph message (TensorProto in GraphProto.initializer)."""
    content = content_bytes(array)
    dims = sum(1 + varint_bytes(extent) for extent in array.shape)
    return _message(dims + 2 + _NAME + 1 + varint_bytes(content) + content)


def node_bytes(node: NodeSpec) -> int:
    """Return the bytes a node adds to the graph message (NodeProto in GraphProto.node)."""
    ports = sum(_NAME if name else 2 for name in (*node.inputs, *node.outputs))
    attributes = sum(_attribute_bytes(name, value) for name, value in node.attributes.items())
    return _message(ports + 2 + len(node.op_type) + attributes)


def _attribute_bytes(name: str, value: AttributeValue) -> int:
    match value:
        case int():
            content = 1 + varint_bytes(value)
        case float():
            content = 5
        case str():
            content = 2 + len(value)
        case _:
            content = sum(1 + varint_bytes(item) for item in value)
    return _message(2 + len(name) + content + 3)


def _message(content: int) -> int:
    return 1 + varint_bytes(content) + content
