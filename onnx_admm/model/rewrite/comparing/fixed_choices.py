"""Copies of models that choose rows by scores, with the same rows chosen in every run, for measurements.

A node that chooses (see ``choices``) is replaced by rows at equal distances, whatever the scores are:

    TopK:               indices = range(k) * (n / k),  values = gather(data, indices)
    NonMaxSuppression:  m = min(n, 100) boxes of each sample, classes in turns

So a row of the copy's outputs belongs to the same place in every run, and a small change of the weights
changes it a little. Ranges of activations, accuracy and latency are measured on the model itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnx_admm.model.analysis.choices import choosing_nodes
from onnx_admm.model.edit import taken_names
from onnx_admm.model.rewrite.comparing.node_writer import NodeWriter
from onnx_admm.model.view import ModelView

_LEAST_OPSET = 11
"""Opset of ``Range`` and of negative indices in ``Gather``."""

_MOST_BOXES = 100
_LONG, _BOOL = ir.DataType.INT64, ir.DataType.BOOL


def choosing_operators(view: ModelView) -> Mapping[str, int]:
    """Return the number of nodes whose choice is fixed in measurements, by operator."""
    if view.opset < _LEAST_OPSET:
        return {}
    return Counter(node.op_type for node, _ in choosing_nodes(view.graph_ir))


def with_fixed_choices(view: ModelView) -> ModelView:
    """Return the model, or a fork that chooses the same rows in every run."""
    if not choosing_operators(view):
        return view
    fork = view.fork()
    taken = taken_names(fork.graph_ir)
    for node, graph in list(choosing_nodes(fork.graph_ir)):
        writer = NodeWriter(taken, "fixed_choice")
        values = _top(node, writer) if node.op_type == "TopK" else [_boxes(node, writer)]
        writer.replace(node, values, graph)
    return fork


def _top(node: ir.Node, writer: NodeWriter) -> list[ir.Value]:
    """Return values and indices of rows at equal distances."""
    data, length = node.inputs[:2]
    axis = node.attributes.get_int("axis", -1)
    count = writer.add("Reshape", [length, writer.constant(np.zeros(0, np.int64))], _LONG)
    there = writer.add("Gather", [writer.shape_of(data), writer.constant(np.array(axis))], _LONG)
    step = writer.add("Div", [there, count], _LONG)
    rows = writer.add("Mul", [writer.counted(count), step], _LONG)
    dtype = ir.DataType.FLOAT if data is None or data.dtype is None else data.dtype
    values = writer.add("Gather", [data, rows], dtype, axis=axis)
    turned = writer.add("Reshape", [rows, _column(data, axis, writer)], _LONG)
    return [values, writer.add("Expand", [turned, writer.shape_of(values)], _LONG)]


def _column(data: ir.Value | None, axis: int, writer: NodeWriter) -> ir.Value:
    """Return the shape of a vector along an axis of the data: ``[-1, 1, ...]``, a 1 for each axis behind."""
    if axis < 0:
        return writer.constant(np.array([-1] + [1] * (-axis - 1)))
    rank = writer.add("Size", [writer.shape_of(data)], _LONG)
    behind = writer.add("Sub", [rank, writer.constant(np.array([axis + 1]))], _LONG)
    one = ir.tensor(np.array([1]))
    ones = writer.add("ConstantOfShape", [behind], _LONG, value=one)
    return writer.add("Concat", [writer.constant(np.array([-1])), ones], _LONG, axis=0)


def _boxes(node: ir.Node, writer: NodeWriter) -> ir.Value:
    """Return rows of sample, class and box, boxes at equal distances."""
    sizes = writer.shape_of(node.inputs[1])
    samples, classes, there = (
        writer.add("Gather", [sizes, writer.constant(np.array(axis))], _LONG) for axis in range(3)
    )
    least, most = writer.constant(np.array(1)), writer.constant(np.array(_MOST_BOXES))
    count = writer.add("Where", [writer.add("Less", [there, most], _BOOL), there, most], _LONG)
    divisor = writer.add("Where", [writer.add("Less", [count, least], _BOOL), least, count], _LONG)
    numbers = writer.counted(writer.add("Mul", [samples, count], _LONG))
    sample = writer.add("Div", [numbers, divisor], _LONG)
    step = writer.add("Div", [there, divisor], _LONG)
    box = writer.add("Mul", [writer.add("Mod", [numbers, divisor], _LONG), step], _LONG)
    columns = [sample, writer.add("Mod", [numbers, classes], _LONG), box]
    upright = writer.constant(np.array([-1, 1]))
    joined = [writer.add("Reshape", [column, upright], _LONG) for column in columns]
    return writer.add("Concat", joined, _LONG, axis=1)
