"""Operators that combine values place by place, or change one value place by place."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_admm.model.channels.labels import Axes, Axis
from onnx_admm.model.channels.survey import NotFollowed, Survey
from onnx_admm.model.edit import NodeRef, ValueRef


def broadcast(survey: Survey, node: NodeRef) -> None:
    """Label the output of an operator that combines its inputs by broadcasting (ONNX Broadcasting).

    Axes that meet are united. An axis of extent 1 is repeated and so joins nothing.
    """
    operands = [value for value in node.inputs if value is not None]
    survey.axes[node.outputs[0]] = _broadcast_axes(survey, node, operands)


def unary(survey: Survey, node: NodeRef) -> None:
    """Label all outputs like the first input; other inputs are numbers that hold for all places."""
    axes = survey.of(node.input(0))
    for output in node.outputs:
        survey.axes[output] = axes


def quantise(survey: Survey, node: NodeRef) -> None:
    """Label the output like the first input; scales and zero points may have one number for each channel.

    Source: QuantizeLinear-13, DequantizeLinear-13. Blocks (opset 21) along a labelled axis are not followed.
    """
    axes = survey.of(node.input(0))
    if node.attribute("block_size", 0):
        survey.block(axes, f"{node.op_type} {node.name} has a scale for each block")
    axis = node.attribute("axis", 1)
    for value in node.inputs[1:]:
        if value is not None and len(survey.shape(value)) == 1 and axes:
            survey.join(axes[axis % len(axes)], survey.of(value)[0], f"{node.name} has other scales")
    survey.axes[node.outputs[0]] = axes


def prelu(survey: Survey, node: NodeRef) -> None:
    """Label PRelu: the slope is broadcast to the data (PRelu-9)."""
    broadcast(survey, node)
    if len(survey.of(node.outputs[0])) != len(survey.of(node.input(0))):
        raise NotFollowed(f"the slope of {node.name} has more axes than its data")


def along_axis(survey: Survey, node: NodeRef) -> None:
    """Label an operator that mixes the positions of one axis and keeps the shape: Softmax, CumSum.

    Before opset 13, Softmax mixes all axes from ``axis`` on.
    """
    axes = survey.of(node.input(0))
    flattens = node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and survey.view.opset < 13
    axis = node.attribute("axis", 1 if flattens else -1)
    if node.op_type == "CumSum":
        stored = survey.stored(node, 1)
        axis = 0 if stored is None else int(stored)
    axis %= max(1, len(axes))
    mixed = axes[axis:] if flattens else axes[axis : axis + 1]
    survey.block(mixed, f"{node.op_type} {node.name} mixes channels")
    survey.axes[node.outputs[0]] = axes


def _broadcast_axes(survey: Survey, node: NodeRef, operands: Sequence[ValueRef]) -> Axes:
    labelled = [(survey.of(value), survey.shape(value)) for value in operands]
    rank = max(len(axes) for axes, _ in labelled)
    result: list[Axis | None] = [None] * rank
    reason = f"{node.op_type} {node.name} combines its channels with others that stay"
    for place in range(rank):
        met = [
            axes[place - rank + len(axes)]
            for axes, shape in labelled
            if place >= rank - len(axes) and shape[place - rank + len(axes)] != 1
        ]
        for axis in met[1:]:
            met[0] = survey.join(met[0], axis, reason)
        result[place] = met[0] if met else None
    return tuple(result)
