"""Gradients of operators that move, cut, join, repeat and pad elements."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the gradient in the shape of the input."""
    return {0: tape.reshape(node.dy, node.input_shapes[0])}


@rule("Transpose")
def transpose(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the axes back in their order."""
    rank = len(node.input_shapes[0])
    order = node.get("perm", tuple(reversed(range(rank))))
    return {0: tape.transpose(node.dy, [int(axis) for axis in np.argsort(order)])}


@rule("Concat")
def concat(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each input takes its part."""
    axis = int(node.get("axis")) % len(node.output_shapes[0])
    sizes = [shape[axis] for shape in node.input_shapes]
    if len(sizes) == 1:
        return {0: node.dy}
    parts = tape.write_several("Split", [node.dy, tape.ints(sizes)], len(sizes), axis=axis)
    return dict(enumerate(parts))


@rule("Split")
def split(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the parts joined, zeros for those that the loss does not depend on."""
    parts = [
        tape.zeros(shape, node.dtype) if gradient is None else gradient
        for gradient, shape in zip(node.gradients, node.output_shapes, strict=True)
    ]
    axis = int(node.get("axis", 0)) % len(node.input_shapes[0])
    return {0: parts[0] if len(parts) == 1 else tape.write("Concat", *parts, axis=axis)}


@rule("Slice")
def slice_of(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Zeros around the gradient, and between its elements where the step is no 1."""
    shape, extents = node.input_shapes[0], list(node.output_shapes[0])
    rank = len(shape)
    gradient = node.dy
    before, after = [0] * rank, [0] * rank
    for axis, start, step in _cuts(node):
        extent = shape[axis]
        start = start + extent if start < 0 else start
        start = int(np.clip(start, 0, extent - 1 if step < 0 else extent))
        if step < 0:
            gradient = tape.cut(gradient, [axis], [-1], [-extents[axis] - 1], [-1])
            start += step * (extents[axis] - 1)
            step = -step
        if step > 1:
            gradient = _spaced(tape, gradient, extents, axis, step)
            extents[axis] = extents[axis] * step
            surplus = max(start + extents[axis] - extent, 0)
            if surplus:
                extents[axis] -= surplus
                gradient = tape.cut(gradient, [axis], [0], [extents[axis]])
        before[axis], after[axis] = start, extent - start - extents[axis]
    return {0: tape.padded(gradient, before, after)}


def _cuts(node: GradientNode) -> list[tuple[int, int, int]]:
    """Axis, start and step of each cut."""
    rank = len(node.input_shapes[0])
    if "starts" in node.attributes:
        starts, axes, steps = node.get("starts"), node.get("axes"), None
    else:
        starts, axes, steps = node.constant(1), node.constant(3), node.constant(4)
    if starts is None:
        raise UnsupportedVariant("no starts")
    over = list(range(len(starts))) if axes is None else [int(axis) % rank for axis in axes]
    by = [1] * len(starts) if steps is None else [int(step) for step in steps]
    return [(axis, int(start), step) for axis, start, step in zip(over, starts, by, strict=True)]


def _spaced(tape: Tape, value: str, extents: list[int], axis: int, step: int) -> str:
    """``step - 1`` zeros behind each element along an axis."""
    apart = [*extents[: axis + 1], 1, *extents[axis + 1 :]]
    after = [0] * len(apart)
    after[axis + 1] = step - 1
    widened = tape.padded(tape.reshape(value, apart), [0] * len(apart), after)
    return tape.reshape(widened, [*extents[:axis], extents[axis] * step, *extents[axis + 1 :]])


@rule("Expand")
def expand(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the sum over what was repeated."""
    return {0: tape.sum_to(node.dy, node.output_shapes[0], node.input_shapes[0])}


@rule("Tile")
def tile(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the sum over the copies."""
    shape, tiled = node.input_shapes[0], node.output_shapes[0]
    apart = [part for own, all_of in zip(shape, tiled, strict=True) for part in (all_of // max(own, 1), own)]
    copies = list(range(0, len(apart), 2))
    return {0: tape.sum(tape.reshape(node.dy, apart), copies)}


@rule("DepthToSpace")
def depth_to_space(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the blocks back into channels."""
    n, channels, height, width = node.input_shapes[0]
    block = int(node.get("blocksize"))
    if node.get("mode", "DCR") == "DCR":
        return {0: tape.write("SpaceToDepth", node.dy, blocksize=block)}
    apart = tape.reshape(node.dy, [n, channels // block**2, height, block, width, block])
    return {0: tape.reshape(tape.transpose(apart, [0, 1, 3, 5, 2, 4]), node.input_shapes[0])}


@rule("SpaceToDepth")
def space_to_depth(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the channels back into blocks."""
    return {0: tape.write("DepthToSpace", node.dy, blocksize=int(node.get("blocksize")))}
