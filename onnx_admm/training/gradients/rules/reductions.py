"""Gradients of reductions over axes."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


def reduced_axes(node: GradientNode) -> tuple[int, ...]:
    """Return the axes that a reduction or global pool goes over, none of them negative."""
    rank = len(node.input_shapes[0])
    if node.operator.startswith("Global"):
        return tuple(range(2, rank))
    axes = node.get("axes")
    if axes is None and node.has(1):
        axes = node.constant(1)
    if axes is None or len(axes) == 0:
        return () if node.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in axes}))


def kept_shape(node: GradientNode) -> tuple[int, ...]:
    """Return the shape of the output with the reduced axes kept."""
    axes = reduced_axes(node)
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(node.input_shapes[0]))


def with_axes(tape: Tape, node: GradientNode, value: str) -> str:
    """Return a value of the output's shape, with the reduced axes kept."""
    shape = kept_shape(node)
    return value if shape == node.output_shapes[0] else tape.reshape(value, shape)


def spread(tape: Tape, node: GradientNode, value: str, factor: float = 1.0) -> str:
    """Repeat a value of the kept shape over the reduced axes, times a factor."""
    if kept_shape(node) == node.input_shapes[0]:
        return tape.scaled(value, factor, node.dtype)
    if factor != 1:
        value = tape.scaled(value, factor, node.dtype)
    return tape.write("Expand", value, tape.ints(node.input_shapes[0]))


@rule("ReduceSum")
def reduce_sum(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Every element takes the gradient of its sum."""
    return {0: spread(tape, node, with_axes(tape, node, node.dy))}


@rule("ReduceMean", "GlobalAveragePool")
def reduce_mean(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Every element takes its share of the gradient of its mean."""
    count = int(np.prod([node.input_shapes[0][axis] for axis in reduced_axes(node)], dtype=np.int64))
    return {0: spread(tape, node, with_axes(tape, node, node.dy), 1 / count)}


@rule("ReduceMax", "ReduceMin", "GlobalMaxPool")
def reduce_extreme(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient to the extreme; equal elements share it."""
    is_extreme = tape.mask(tape.write("Equal", node.x, with_axes(tape, node, node.y)), node.dtype)
    count = tape.sum(is_extreme, reduced_axes(node), keep=True)
    return {0: tape.write("Mul", is_extreme, tape.write("Div", with_axes(tape, node, node.dy), count))}


@rule("ReduceSumSquare")
def reduce_sum_square(tape: Tape, node: GradientNode) -> dict[int, str]:
    """2 x dy."""
    return {0: tape.write("Mul", tape.scaled(node.x, 2, node.dtype), with_axes(tape, node, node.dy))}


@rule("ReduceL2")
def reduce_l2(tape: Tape, node: GradientNode) -> dict[int, str]:
    """x dy / y."""
    share = tape.write("Div", with_axes(tape, node, node.dy), with_axes(tape, node, node.y))
    return {0: tape.write("Mul", node.x, share)}


@rule("ReduceL1")
def reduce_l1(tape: Tape, node: GradientNode) -> dict[int, str]:
    """sign(x) dy."""
    return {0: tape.write("Mul", tape.write("Sign", node.x), with_axes(tape, node, node.dy))}


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(tape: Tape, node: GradientNode) -> dict[int, str]:
    """exp(x - y) dy."""
    share = tape.write("Exp", tape.write("Sub", node.x, with_axes(tape, node, node.y)))
    return {0: tape.write("Mul", share, with_axes(tape, node, node.dy))}


@rule("ReduceProd")
def reduce_product(tape: Tape, node: GradientNode) -> dict[int, str]:
    """y / x dy, for factors none of which is zero."""
    share = tape.write("Div", with_axes(tape, node, node.y), node.x)
    return {0: tape.write("Mul", share, with_axes(tape, node, node.dy))}


@rule("CumSum")
def cumulative_sum(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the cumulative sum of the gradient, from the other end."""
    reverse = 1 - int(node.get("reverse", 0))
    exclusive = int(node.get("exclusive", 0))
    if node.constant(1) is None:
        raise UnsupportedVariant("no axis")
    return {0: tape.write("CumSum", node.dy, node.inputs[1], reverse=reverse, exclusive=exclusive)}
