"""NodeWriter: new nodes that take the place of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.edit import free_name
from onnx_admm.model.files.tensor_proto import tensor_proto

_LONG = ir.DataType.INT64


class NodeWriter:
    """Makes nodes, and puts them in the place of another one.

    Args:
        taken: names of the model's values; those of new values are added.
        name: what new values are called.

    Attributes:
        nodes: the new nodes, in order.
    """

    def __init__(self, taken: set[str | None], name: str) -> None:
        self.nodes: list[ir.Node] = []
        self._taken, self._name = taken, name

    def constant(self, array: npt.ArrayLike) -> ir.Value:
        """Add a constant."""
        tensor = ir.serde.deserialize_tensor(tensor_proto("", np.asarray(array)))
        return self.add("Constant", [], tensor.dtype, value=tensor)

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], dtype: ir.DataType, **attributes: Any
    ) -> ir.Value:
        """Add a node, and return its output of this type."""
        node = ir.node(op_type, inputs, attributes, name="")
        node.outputs[0].name = free_name(self._name, self._taken)
        node.outputs[0].type = ir.TensorType(dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def shape_of(self, value: ir.Value | None) -> ir.Value:
        """Return the shape of a value."""
        return self.add("Shape", [value], _LONG)

    def counted(self, size: ir.Value) -> ir.Value:
        """Return the numbers from 0 up to a size, which is a scalar (opset 11)."""
        zero, one = self.constant(np.array(0)), self.constant(np.array(1))
        return self.add("Range", [zero, size, one], _LONG)

    def replace(self, node: ir.Node, values: Sequence[ir.Value], place: ir.Graph | ir.Function) -> None:
        """Put the new nodes in the place of a node, with values for its first outputs, which keep names."""
        place.insert_before(node, self.nodes)
        for old, new in zip(node.outputs, values, strict=False):
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name, new.name = free_name("unused", self._taken), old.name
            new.type, new.shape = old.type or new.type, old.shape
        place.remove(node, safe=True)
