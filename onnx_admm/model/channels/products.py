"""Layers: convolutions and matrix products, where channels begin and end."""

from __future__ import annotations

from functools import partial

import numpy as np

from onnx_admm.model.channels.labels import Axis
from onnx_admm.model.channels.survey import Keep, NotFollowed, Survey
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.view import ModelView


def convolution(survey: Survey, node: NodeRef) -> None:
    """Label Conv and ConvTranspose, grouped ones too (Conv-11, ConvTranspose-11).

    Where a group has one input channel, it goes with its output channels, and ``group`` falls. Other grouped
    convolutions keep their groups, all of one width: channels at the same place of each group go together.
    """
    data, weight = node.input(0), node.input(1)
    groups = node.attribute("group", 1)
    transposed = node.op_type == "ConvTranspose"
    if data is None or weight is None or len(survey.shape(data)) < 3:
        raise NotFollowed(f"{node.op_type} {node.name} has no spatial axes")
    source, kernel = survey.of(data), survey.of(weight)
    survey.block(kernel[2:], "places of a kernel stay")
    survey.block(source[2:], f"{node.op_type} {node.name} slides along these positions")
    extents = survey.known_shape(weight)
    depthwise = groups > 1 and extents[0 if transposed else 1] == (groups if transposed else 1)
    if depthwise:
        written = _depthwise(survey, node, groups, transposed=transposed)
    elif groups > 1:
        written = _grouped(survey, node, groups, transposed=transposed)
    else:
        read = survey.layer(node, weight, 0 if transposed else 1, reads=True)
        survey.join(source[1], read, _unknown_source(node))
        written = survey.layer(node, weight, 1 if transposed else 0, reads=False)
    bias = node.input(2)
    if bias is not None:
        survey.join(written, survey.of(bias)[0], f"the bias of {node.name} has another length")
    rank = len(survey.shape(data))
    survey.axes[node.outputs[0]] = (None, written, *(None,) * (rank - 2))


def _depthwise(survey: Survey, node: NodeRef, groups: int, *, transposed: bool) -> Axis | None:
    """Label a convolution of one input channel a group; return the labels of its output channels."""
    data, weight = node.input(0), node.input(1)
    source, kernel = survey.of(data)[1], survey.of(weight)
    extents = survey.known_shape(weight)
    if source is None:
        survey.block(kernel, _unknown_source(node))
        return None if transposed else kernel[0]
    if transposed:
        survey.block(kernel[1:2], f"each group of {node.name} has several outputs")
        survey.join(source, kernel[0], _unknown_source(node))
        survey.take(len(source) * extents[1])
        written = np.repeat(source, extents[1])
    else:
        survey.take(len(source) * (extents[0] // groups))
        written = np.repeat(source, extents[0] // groups)
        survey.join(written, kernel[0], _unknown_source(node))
    survey.adjust(node, partial(_set_count, node, "group", source))
    return written


def _grouped(survey: Survey, node: NodeRef, groups: int, *, transposed: bool) -> Axis | None:
    """Label a grouped convolution whose groups all keep the same width."""
    data, weight = node.input(0), node.input(1)
    if weight is None:
        raise NotFollowed(f"{node.name} has no weight")
    source = survey.of(data)[1]
    reads, writes = (0, 1) if transposed else (1, 0)
    read = survey.layer(node, weight, reads, reads=True)
    written = survey.layer(node, weight, writes, reads=False)
    if source is not None:
        source = survey.labels.unite_rows(source.reshape(groups, -1))
    if transposed and read is not None:
        read = survey.labels.unite_rows(read.reshape(groups, -1))
    survey.join(source if source is None or len(source) > 1 else None, read, _unknown_source(node))
    if source is not None and len(source) == 1:
        survey.labels.block(source, f"each group of {node.name} keeps a channel")
    if written is None:
        return None
    if transposed:
        survey.take(len(written) * groups)
        return np.tile(written, groups)
    row = survey.labels.unite_rows(written.reshape(groups, -1))
    if len(row) == 1:
        survey.labels.block(row, f"each group of {node.name} keeps a channel")
    return written


def gemm(survey: Survey, node: NodeRef) -> None:
    """Label Gemm: ``Y = alpha A' B' + beta C`` (Gemm-11)."""
    left, right = node.input(0), node.input(1)
    turned_left, turned_right = node.attribute("transA", 0), node.attribute("transB", 0)
    rows, columns = _product(
        survey, node, left, right, (1, 0) if turned_left else (0, 1), (1, 0) if turned_right else (0, 1)
    )
    result = (rows, columns)
    added = node.input(2)
    if added is not None:
        axes, shape = survey.of(added), survey.shape(added)
        for place in range(1, len(axes) + 1):
            if shape[-place] != 1:
                survey.join(result[-place], axes[-place], f"what {node.name} adds has another length")
    survey.axes[node.outputs[0]] = result


def matmul(survey: Survey, node: NodeRef) -> None:
    """Label MatMul of operands with two axes or more (MatMul-13); axes in front are broadcast."""
    left, right = node.input(0), node.input(1)
    a, b = survey.of(left), survey.of(right)
    if len(a) < 2 or len(b) < 2:
        raise NotFollowed(f"MatMul {node.name} multiplies by a vector")
    rows, columns = _product(survey, node, left, right, (len(a) - 2, len(a) - 1), (len(b) - 2, len(b) - 1))
    front: list[Axis | None] = []
    rank = max(len(a), len(b)) - 2
    for place in range(-rank - 2, -2):
        met = [
            axes[place]
            for axes, value in ((a, left), (b, right))
            if len(axes) >= -place and survey.shape(value)[place] != 1
        ]
        joined = met[0] if met else None
        for axis in met[1:]:
            joined = survey.join(joined, axis, f"MatMul {node.name} multiplies by stacks that stay")
        front.append(joined)
    survey.axes[node.outputs[0]] = (*front, rows, columns)


def _product(
    survey: Survey,
    node: NodeRef,
    left: ValueRef | None,
    right: ValueRef | None,
    a: tuple[int, int],
    b: tuple[int, int],
) -> tuple[Axis | None, Axis | None]:
    """Label a matrix product; ``a`` and ``b`` are the axes of rows and columns of its operands.

    Returns the labels of the rows and columns of the result. The inner axis is read by the operand that is a
    weight; a product of two computed values needs all of it.
    """
    if left is None or right is None:
        raise NotFollowed(f"{node.name} has no operand")
    if is_weight(left) == is_weight(right):
        inner = (survey.of(left)[a[1]], survey.of(right)[b[0]])
        survey.block(inner, f"{node.op_type} {node.name} multiplies them by a computed value")
        return survey.of(left)[a[0]], survey.of(right)[b[1]]
    if is_weight(right):
        read = survey.layer(node, right, b[0], reads=True)
        survey.join(survey.of(left)[a[1]], read, _unknown_source(node))
        return survey.of(left)[a[0]], survey.layer(node, right, b[1], reads=False)
    read = survey.layer(node, left, a[1], reads=True)
    survey.join(survey.of(right)[b[0]], read, _unknown_source(node))
    return survey.layer(node, left, a[0], reads=False), survey.of(right)[b[1]]


def is_weight(value: ValueRef) -> bool:
    """Return whether a value is a constant, or computed from constants alone."""
    pending, seen = [value], set[ValueRef]()
    while pending:
        current = pending.pop()
        if current in seen or current.constant_shape is not None:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is None or len(seen) > 16:
            return False
        pending.extend(value for value in producer.inputs if value is not None)
    return True


def _unknown_source(node: NodeRef) -> str:
    return f"the channels that {node.op_type} {node.name} reads come from an input of the model or stay"


def _set_count(node: NodeRef, name: str, labels: Axis, model: ModelView, keep: Keep) -> None:
    model.set_attribute(node, name, int(np.count_nonzero(keep(labels))))
