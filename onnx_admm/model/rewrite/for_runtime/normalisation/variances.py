"""Variances over axes, in both of the forms that exporters write.

    centred   mean ((x - mean (x))^2)
    fast      max (0, mean (x^2) - mean (x)^2), also without the maximum

The two differ by rounding alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.rewrite.for_runtime.expressions import inner_producer, is_inner, producer, scalar
from onnx_admm.model.rewrite.for_runtime.match import RewriteContext
from onnx_admm.model.rewrite.for_runtime.normalisation.means import (
    Mean,
    broadcast_mean,
    has_kept_shape,
    mean_of,
    without_views,
)


@dataclass(frozen=True, slots=True)
class Variance:
    """The variance of ``data`` over ``axes``, with axes of extent 1 in their place.

    Attributes:
        data: what varies.
        axes: axes, from 0 on, in rising order.
        nodes: nodes that compute it.
        is_usual: whether it is written as the runtime's own fusion of LayerNormalization expects it.
    """

    data: ir.Value
    axes: tuple[int, ...]
    nodes: tuple[ir.Node, ...]
    is_usual: bool = False


def variance_of(context: RewriteContext, value: ir.Value) -> Variance | None:
    """Return a value that only one node reads as a variance; None where it is none."""
    if not is_inner(value):
        return None
    found = _centred(context, value) or _fast(context, value)
    if found is None or not has_kept_shape(context, value, found.data, found.axes):
        return None
    return found


def _centred(context: RewriteContext, value: ir.Value) -> Variance | None:
    outer = mean_of(context, value)
    squares = None if outer is None else _square(outer.data)
    difference = None if squares is None else producer(squares[0], "Sub")
    if outer is None or squares is None or difference is None:
        return None
    mean = broadcast_mean(context, difference.inputs[1])
    if mean is None or mean.data is not difference.inputs[0] or mean.axes != outer.axes:
        return None
    is_usual = outer.is_plain and mean.is_plain and squares[1].op_type == "Pow"
    nodes = (*outer.nodes, squares[1], difference, *mean.nodes)
    return Variance(mean.data, mean.axes, nodes, is_usual)


def _fast(context: RewriteContext, value: ir.Value) -> Variance | None:
    inner, views = without_views(context, value)
    inner, limits = _without_limit(inner)
    difference = inner_producer(inner, "Sub")
    if difference is None:
        return None
    left, right = difference.inputs
    of_squares, square_of_mean = mean_of(context, left), None if right is None else _square(right)
    squares = None if of_squares is None else _square(of_squares.data)
    if of_squares is None or squares is None or square_of_mean is None or left is None or right is None:
        return None
    mean = mean_of(context, square_of_mean[0])
    if mean is None or not _match(mean, of_squares, squares[0]):
        return None
    shapes = context.shapes_of_batches(left)
    if shapes is None or shapes != context.shapes_of_batches(right):
        return None
    nodes = (*views, *limits, difference, *of_squares.nodes, squares[1], square_of_mean[1], *mean.nodes)
    return Variance(mean.data, mean.axes, nodes)


def _match(mean: Mean, of_squares: Mean, data: ir.Value) -> bool:
    return mean.data is data and mean.axes == of_squares.axes


def _without_limit(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """Return what a maximum with 0 limits, and the node."""
    node = inner_producer(value, "Max", "Relu")
    if node is None or node.op_type == "Relu":
        return (value, ()) if node is None else (node.inputs[0], (node,))
    if len(node.inputs) != 2:
        return value, ()
    left, right = node.inputs
    if scalar(left) == 0.0:
        return right, (node,)
    return (left, (node,)) if scalar(right) == 0.0 else (value, ())


def _square(value: ir.Value) -> tuple[ir.Value, ir.Node] | None:
    """Return what a value is the square of, and the node; None where other nodes read it too."""
    node = inner_producer(value, "Mul", "Pow")
    root = None if node is None else node.inputs[0]
    if node is None or root is None:
        return None
    is_square = node.inputs[1] is root if node.op_type == "Mul" else scalar(node.inputs[1]) == 2.0
    return (root, node) if is_square else None
