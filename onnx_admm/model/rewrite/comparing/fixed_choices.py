"""Copies of models that choose rows by scores, with the same rows chosen in every run, for measurements.

A node that chooses (see ``choices``) is replaced by rows at equal distances, whatever the scores are:

    TopK:               indices = range(k) * (n / k),  values = gather(data, indices)
    NonMaxSuppression:  m = min(n, limit, 100) boxes of each sample, classes in turns

So a row of the copy's outputs belongs to the same place in every run, and a small change of the weights
changes it a little. What rows are chosen by no longer reaches the outputs, so it is a further output:
``scores of choice 1`` and so on. Ranges of activations, accuracy and latency are those of the model itself.
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

SCORES = "scores of choice"
"""Beginning of the name of a further output."""

_LEAST_OPSET = 11
"""Opset of ``Range`` and of negative indices in ``Gather``."""

_MOST_BOXES = 100
_LONG, _BOOL = ir.DataType.INT64, ir.DataType.BOOL


def choosing_operators(*views: ModelView) -> Mapping[str, int]:
    """Return the number of nodes by operator whose choice is fixed where these models are compared.

    None is, if the models do not have equally many, or one has an opset below 11.
    """
    if any(view.opset < _LEAST_OPSET for view in views):
        return {}
    found = [Counter(node.op_type for node, _ in choosing_nodes(view.graph_ir)) for view in views]
    return found[0] if all(each == found[0] for each in found) else {}


def with_fixed_choices(view: ModelView, *others: ModelView) -> ModelView:
    """Return the model, or a fork that chooses the same rows in every run.

    Args:
        view: the model.
        others: models that it is compared with; see `choosing_operators`.
    """
    if not choosing_operators(view, *others):
        return view
    fork = view.fork()
    graph, taken = fork.graph_ir.graph, taken_names(fork.graph_ir)
    for number, (node, place) in enumerate(list(choosing_nodes(fork.graph_ir)), 1):
        scores = node.inputs[0 if node.op_type == "TopK" else 1]
        writer = NodeWriter(taken, "fixed_choice")
        values = _top(node, writer) if node.op_type == "TopK" else [_boxes(node, writer)]
        writer.replace(node, values, place)
        if place is graph and scores is not None and scores.producer() is not None:
            shown = ir.node("Identity", [scores])
            shown.outputs[0].name, shown.outputs[0].type = f"{SCORES} {number}", scores.type
            graph.append(shown)
            graph.outputs.append(shown.outputs[0])
    return fork


def _at_least_one(value: ir.Value, writer: NodeWriter) -> ir.Value:
    """Return a divisor: the runtime ends the process where integers are divided by 0."""
    one = writer.constant(np.array(1))
    return writer.add("Where", [writer.add("Less", [value, one], _BOOL), one, value], _LONG)


def _at_most(value: ir.Value, most: ir.Value, writer: NodeWriter) -> ir.Value:
    return writer.add("Where", [writer.add("Less", [value, most], _BOOL), value, most], _LONG)


def _scalar(value: ir.Value | None, writer: NodeWriter) -> ir.Value:
    return writer.add("Reshape", [value, writer.constant(np.zeros(0, np.int64))], _LONG)


def _top(node: ir.Node, writer: NodeWriter) -> list[ir.Value]:
    """Return values and indices of rows at equal distances."""
    data, length = node.inputs[:2]
    axis = node.attributes.get_int("axis", -1)
    count = _scalar(length, writer)
    there = writer.add("Gather", [writer.shape_of(data), writer.constant(np.array(axis))], _LONG)
    step = writer.add("Div", [there, _at_least_one(count, writer)], _LONG)
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
    limit = node.inputs[2] if len(node.inputs) > 2 else None
    most = writer.constant(np.array(0)) if limit is None else _scalar(limit, writer)
    count = _at_most(there, _at_most(most, writer.constant(np.array(_MOST_BOXES)), writer), writer)
    divisor = _at_least_one(count, writer)
    numbers = writer.counted(writer.add("Mul", [samples, count], _LONG))
    sample = writer.add("Div", [numbers, divisor], _LONG)
    step = writer.add("Div", [there, divisor], _LONG)
    box = writer.add("Mul", [writer.add("Mod", [numbers, divisor], _LONG), step], _LONG)
    columns = [sample, writer.add("Mod", [numbers, _at_least_one(classes, writer)], _LONG), box]
    upright = writer.constant(np.array([-1, 1]))
    joined = [writer.add("Reshape", [column, upright], _LONG) for column in columns]
    return writer.add("Concat", joined, _LONG, axis=1)
