"""Gradients of operators that look elements up and put them somewhere."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape

_INT64 = 7


@rule("Gather")
def gather(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each element of the gradient is added to the one that was looked up."""
    shape, places = node.input_shapes[:2]
    rank = len(shape)
    axis = int(node.get("axis", 0)) % rank
    rest = [*shape[:axis], *shape[axis + 1 :]]
    count = int(np.prod(places, dtype=np.int64))
    dy = node.dy
    if axis:
        width = len(places)
        order = [*range(axis, axis + width), *range(axis), *range(axis + width, rank - 1 + width)]
        dy = tape.transpose(dy, order)
    index = tape.reshape(_index(tape, node, 1, shape[axis]), [count, 1])
    zeros = tape.zeros((shape[axis], *rest), node.dtype)
    summed = tape.write("ScatterND", zeros, index, tape.reshape(dy, [count, *rest]), reduction="add")
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
    return {0: tape.transpose(summed, order)}


def _index(tape: Tape, node: GradientNode, index: int, extent: int) -> str:
    """Return indices as int64, none of them negative."""
    name = node.inputs[index]
    if node.constants[index] is not None:
        known = np.asarray(node.constants[index], np.int64)
        return tape.constant(np.where(known < 0, known + extent, known), np.int64)
    wide = tape.write("Cast", name, to=_INT64)
    negative = tape.write("Cast", tape.write("Less", wide, tape.constant(0, np.int64)), to=_INT64)
    return tape.write("Add", wide, tape.write("Mul", negative, tape.constant(extent, np.int64)))


@rule("GatherElements")
def gather_elements(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each element of the gradient is added to the one that was looked up."""
    axis = int(node.get("axis", 0)) % len(node.input_shapes[0])
    zeros = tape.zeros(node.input_shapes[0], node.dtype)
    summed = tape.write("ScatterElements", zeros, node.inputs[1], node.dy, axis=axis, reduction="add")
    return {0: summed}


@rule("GatherND")
def gather_nd(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each slice of the gradient is added to the one that was looked up."""
    if node.get("batch_dims", 0):
        raise UnsupportedVariant("batch_dims")
    zeros = tape.zeros(node.input_shapes[0], node.dtype)
    return {0: tape.write("ScatterND", zeros, node.inputs[1], node.dy, reduction="add")}


@rule("ScatterND")
def scatter_nd(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient at the indices to the updates, the rest, or all where they are added, to the data."""
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedVariant(f"reduction {reduction}")
    found = {}
    if node.wants(0):
        zeros = tape.zeros(node.input_shapes[2], node.dtype)
        is_added = reduction == "add"
        found[0] = node.dy if is_added else tape.write("ScatterND", node.dy, node.inputs[1], zeros)
    if node.wants(2):
        found[2] = tape.write("GatherND", node.dy, node.inputs[1])
    return found


@rule("ScatterElements")
def scatter_elements(tape: Tape, node: GradientNode) -> dict[int, str]:
    """As ``ScatterND``, element by element along an axis."""
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedVariant(f"reduction {reduction}")
    axis = int(node.get("axis", 0)) % len(node.input_shapes[0])
    found = {}
    if node.wants(0):
        zeros = tape.zeros(node.input_shapes[2], node.dtype)
        is_added = reduction == "add"
        found[0] = (
            node.dy if is_added else tape.write("ScatterElements", node.dy, node.inputs[1], zeros, axis=axis)
        )
    if node.wants(2):
        found[2] = tape.write("GatherElements", node.dy, node.inputs[1], axis=axis)
    return found


@rule("TopK")
def top_k(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each of the largest values takes its gradient."""
    axis = int(node.get("axis", -1)) % len(node.input_shapes[0])
    zeros = tape.zeros(node.input_shapes[0], node.dtype)
    indices = tape.extra_output(node.outputs, 1)
    return {0: tape.write("ScatterElements", zeros, indices, node.dy, axis=axis)}


@rule("Trilu")
def triangle(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the same triangle of the gradient."""
    operands = [node.dy, *(node.inputs[1:2] if node.has(1) else ())]
    return {0: tape.write("Trilu", *operands, upper=int(node.get("upper", 1)))}
