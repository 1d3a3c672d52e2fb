"""Operators whose form or meaning changed between opsets 7 and 26, and the conversion of their nodes.

``STEPS`` has one function for each change beyond the number: an attribute that became an input, a default
that changed, an operator that was replaced. A step edits one node in place so that it means the same at the
newer opset, or refuses. Sources: the operators' change log of ONNX; where older texts are ambiguous, ONNX
Runtime's behaviour (Resize of opset 10, "nearest": floor where it enlarges, ceil where it shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import free_name
from onnx_admm.model.names import label

Array = npt.NDArray[Any]


class NoStep(Exception):
    """The reason why a node has no form at the newer opset; its text is the error's."""


@dataclass
class NodeEdit:
    """One node during its conversion to a newer opset.

    Attributes:
        node: the node, in its graph.
        target: the target opset.
        shapes: known shapes of values: extents, None for unknown ones.
        dtypes: known element types.
        taken: names of all values of the model.
        origin: its original operator.
        before: nodes that were inserted before it, in order.
    """

    node: ir.Node
    target: int
    shapes: Mapping[ir.Value, tuple[int | None, ...]]
    dtypes: Mapping[ir.Value, ir.DataType]
    taken: set[str | None]
    origin: str = ""
    before: list[ir.Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.origin = self.origin or self.node.op_type

    @property
    def fragment(self) -> list[ir.Node]:
        """The nodes that replace the node now, in order."""
        return [*self.before, self.node]

    def input(self, index: int) -> ir.Value | None:
        """Return an input; None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def data(self) -> ir.Value:
        """Return the first input."""
        value = self.input(0)
        if value is None:
            raise NoStep("its first input is left out")
        return value

    def constant(self, index: int) -> Array | None:
        """Return the constant of an input; None where it is computed, or a caller may override it."""
        value = self.input(index)
        tensor = None if value is None else constant_tensor(value)
        return None if tensor is None else np.asarray(tensor.numpy())

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute and return its value, ``default`` where it is not set."""
        attribute = self.node.attributes.pop(name, None)
        if attribute is not None and attribute.is_ref():
            raise NoStep(f"its attribute {name} comes from whoever calls the function")
        return default if attribute is None else attribute.value

    def set(self, name: str, value: Any) -> None:
        """Set an attribute."""
        self.node.attributes.add(ir.convenience.convert_attribute(name, value))

    def feed(self, index: int, value: ir.Value | Array | None) -> None:
        """Make ``value`` input ``index``; an array becomes a constant before the node."""
        if isinstance(value, np.ndarray):
            value = self.put("Constant", [], {"value": ir.tensor(value)})
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def put(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Insert a node before this one; return its output."""
        fresh = self._fresh(op_type, inputs, attributes or {})
        self._graph.insert_before(self.node, fresh)
        self.before.append(fresh)
        return fresh.outputs[0]

    def put_behind(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Insert a node behind this one, which reads its output and ``inputs`` and replaces the output."""
        dtype = self.node.outputs[0].dtype
        inner = self._fresh(
            self.node.op_type, self.node.inputs, {a.name: a for a in self.node.attributes.values()}
        )
        inner.name, self.node.name = label(self.node), f"{label(self.node)}_{op_type}"
        self._graph.insert_before(self.node, inner)
        self.before.append(inner)
        self.node.op_type = op_type
        self.node.attributes.clear()
        self.node.resize_inputs(1 + len(inputs))
        for index, value in enumerate((inner.outputs[0], *inputs)):
            self.node.replace_input_with(index, value)
        for name, value in (attributes or {}).items():
            self.set(name, value)
        if dtype is not None:
            inner.outputs[0].dtype = dtype

    def _fresh(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
    ) -> ir.Node:
        fresh = ir.node(op_type, inputs, dict(attributes), domain=self.node.domain)
        name = free_name(f"{label(self.node)}_{op_type}", self.taken)
        fresh.name = fresh.outputs[0].name = name
        return fresh

    @property
    def _graph(self) -> ir.Graph:
        graph = self.node.graph
        if not isinstance(graph, ir.Graph):
            raise NoStep("it is in no graph")
        return graph


Step = Callable[[NodeEdit], None]


def _attribute_to_input(name: str, index: int) -> Step:
    """Return a step for a list of integers that became an input; an unset one is left out."""

    def step(edit: NodeEdit) -> None:
        numbers = edit.take(name)
        if numbers is not None and (np.ndim(numbers) == 0 or len(numbers)):
            edit.feed(index, np.array(numbers, np.int64))

    return step


def _clip(edit: NodeEdit) -> None:
    bounds = {index: edit.take(name) for index, name in ((1, "min"), (2, "max"))}
    for index, bound in bounds.items():
        if bound is not None:
            edit.feed(index, np.array(bound, _element_type(edit)))


def _element_type(edit: NodeEdit) -> np.dtype[Any]:
    dtype = edit.dtypes.get(edit.data())
    if dtype is None:
        raise NoStep("the element type of its input is not known")
    return np.dtype(dtype.numpy())


def _dropout(edit: NodeEdit) -> None:
    _only_first_output(edit, "its mask")
    edit.feed(1, np.array(edit.take("ratio", 0.5), np.float32))


def _only_first_output(edit: NodeEdit, what: str) -> None:
    if any(output.uses() or output.is_graph_output() for output in edit.node.outputs[1:]):
        raise NoStep(f"{what} is read, which means something else there")
    edit.node.resize_outputs(1)


def _pad(edit: NodeEdit) -> None:
    edit.feed(1, np.array(edit.take("pads", ()), np.int64))
    value = edit.take("value", 0.0)
    if value != 0.0:
        edit.feed(2, np.array(value, _element_type(edit)))


def _slice(edit: NodeEdit) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        numbers = edit.take(name)
        if numbers is not None:
            edit.feed(index, np.array(numbers, np.int64))


def _top_k(edit: NodeEdit) -> None:
    edit.feed(1, np.array([edit.take("k")], np.int64))


def _split_in_parts(edit: NodeEdit) -> None:
    if edit.input(1) is None:
        edit.set("num_outputs", len(edit.node.outputs))


def _flatten_around(edit: NodeEdit) -> None:
    """Convert Softmax and the like, which were over all axes from ``axis`` on, and are over one now."""
    axis, data = int(edit.take("axis", 1)), edit.data()
    shape = edit.shapes.get(data)
    if shape is not None:
        inner = shape[axis % len(shape) + 1 :] if shape else ()
        if all(extent == 1 for extent in inner):
            edit.set("axis", axis)
            return
    size = edit.put("Shape", [data])
    edit.feed(0, edit.put("Flatten", [data], {"axis": axis}))
    edit.set("axis", 1)
    edit.put_behind("Reshape", [size], {"allowzero": 1} if edit.target >= 14 else None)


def _batch_normalization_9(edit: NodeEdit) -> None:
    if not edit.take("spatial", 1):
        raise NoStep("it normalises every activation by itself (spatial = 0)")


def _batch_normalization_14(edit: NodeEdit) -> None:
    _only_first_output(edit, "an output of its training mode")


def _upsample_scales(edit: NodeEdit) -> None:
    edit.feed(1, np.array(edit.take("scales"), np.float32))


def _upsample_to_resize(edit: NodeEdit) -> None:
    edit.node.op_type = "Resize"


def _resize_11(edit: NodeEdit) -> None:
    """Convert ``x_original = x_resized / scale``; the nearest is below, or above where the axis shrinks."""
    scales, given = edit.constant(1), edit.input(1)
    edit.set("coordinate_transformation_mode", "asymmetric")
    edit.node.resize_inputs(3)
    if edit.target < 13:
        edit.feed(1, np.zeros(0, np.float32))
    else:
        edit.feed(1, None)
    edit.feed(2, given)
    mode = edit.node.attributes.get_string("mode", "nearest")
    if mode != "nearest" or edit.origin == "Upsample":
        edit.set("nearest_mode", "floor")
        return
    if scales is not None and not (np.any(scales < 1) and np.any(scales > 1)):
        edit.set("nearest_mode", "ceil" if np.any(scales < 1) else "floor")
        return
    edit.set("nearest_mode", "floor")
    one = np.ones(1, np.float32)
    if scales is None:
        unit = edit.put("Constant", [], {"value": ir.tensor(one)})
        enlarging, shrinking = edit.put("Max", [given, unit]), edit.put("Min", [given, unit])
    else:
        enlarging = edit.put("Constant", [], {"value": ir.tensor(np.maximum(scales, one))})
        shrinking = edit.put("Constant", [], {"value": ir.tensor(np.minimum(scales, one))})
    edit.feed(2, enlarging)
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}
    edit.put_behind("Resize", [edit.node.inputs[1], shrinking], attributes)


def _resize_13(edit: NodeEdit) -> None:
    mode = edit.node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_half_pixel_for_nn":
        raise NoStep(f"{mode} no longer exists")


def _scatter(edit: NodeEdit) -> None:
    edit.node.op_type = "ScatterElements"


def _roi_align(edit: NodeEdit) -> None:
    edit.set("coordinate_transformation_mode", "output_half_pixel")


def _grid_sample(edit: NodeEdit) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = str(edit.take("mode", "bilinear"))
    edit.set("mode", names.get(mode, mode))


def _dft(edit: NodeEdit) -> None:
    edit.feed(2, np.array(edit.take("axis", 1), np.int64))


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

STEPS: Mapping[tuple[str, int], Step] = {
    ("BatchNormalization", 9): _batch_normalization_9,
    ("BatchNormalization", 14): _batch_normalization_14,
    ("Clip", 11): _clip,
    ("DFT", 20): _dft,
    ("Dropout", 12): _dropout,
    ("GridSample", 20): _grid_sample,
    ("Hardmax", 13): _flatten_around,
    ("LogSoftmax", 13): _flatten_around,
    ("Pad", 11): _pad,
    ("ReduceSum", 13): _attribute_to_input("axes", 1),
    ("Resize", 11): _resize_11,
    ("Resize", 13): _resize_13,
    ("RoiAlign", 16): _roi_align,
    ("Scatter", 11): _scatter,
    ("Slice", 10): _slice,
    ("Softmax", 13): _flatten_around,
    ("Split", 13): _attribute_to_input("split", 1),
    ("Split", 18): _split_in_parts,
    ("Squeeze", 13): _attribute_to_input("axes", 1),
    ("TopK", 10): _top_k,
    ("Unsqueeze", 13): _attribute_to_input("axes", 1),
    ("Upsample", 9): _upsample_scales,
    ("Upsample", 10): _upsample_to_resize,
    **{(f"Reduce{kind}", 18): _attribute_to_input("axes", 1) for kind in _REDUCTIONS},
}
"""Steps by operator and the opset of its change; other changes must be additions alone."""
