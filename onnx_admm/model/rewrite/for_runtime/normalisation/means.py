"""Means over axes, in the operators that exporters write them in.

    ReduceMean (x), GlobalAveragePool (x), ReduceSum (x) * 1/n, ReduceSum (x) / n

with the reduced axes kept or not, and Reshape, Squeeze, Unsqueeze and Expand behind them that give the same
elements another shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.analysis.shapes import Shape
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.model.rewrite.for_runtime.expressions import producer, scalar
from onnx_admm.model.rewrite.for_runtime.match import RewriteContext

_VIEWS = tuple(sorted(operators_with(Trait.VIEWS) & operators_with(Trait.REARRANGES)))

_EXACT = 1e-6
"""Relative difference of a factor from 1/n up to which it counts as 1/n: that to 1 / (n - 1) is larger."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A value with the elements of the mean of ``data`` over ``axes``, in their order.

    Attributes:
        data: what is averaged.
        axes: axes that are averaged over, from 0 on, in rising order.
        nodes: nodes that compute it.
        is_plain: whether it is one ReduceMean.
    """

    data: ir.Value
    axes: tuple[int, ...]
    nodes: tuple[ir.Node, ...]
    is_plain: bool


def mean_of(context: RewriteContext, value: ir.Value | None) -> Mean | None:
    """Return a value as a mean; None where it is none, or where its axes or shapes are not known."""
    inner, views = without_views(context, value)
    node = producer(inner, "ReduceMean", "GlobalAveragePool", "Mul", "Div")
    if node is None:
        return None
    if node.op_type in ("Mul", "Div"):
        return _scaled_sum(context, node, views)
    axes = _axes(context, node)
    if axes is None or node.inputs[0] is None:
        return None
    is_plain = node.op_type == "ReduceMean" and not views
    return Mean(node.inputs[0], axes, (*views, node), is_plain)


def _scaled_sum(context: RewriteContext, node: ir.Node, views: tuple[ir.Node, ...]) -> Mean | None:
    """Return ``sum * 1/n`` or ``sum / n`` as a mean."""
    left, right = node.inputs
    if node.op_type == "Mul" and scalar(right) is None:
        left, right = right, left
    factor = scalar(right)
    inner, more = without_views(context, left)
    total = producer(inner, "ReduceSum")
    axes = None if total is None else _axes(context, total)
    if total is None or axes is None or not factor or total.inputs[0] is None:
        return None
    extents = [context.fixed_extent(total.inputs[0], axis) for axis in axes]
    count = math.prod(extent or 0 for extent in extents)
    divisor = factor if node.op_type == "Div" else 1 / factor
    if not count or abs(divisor - count) > _EXACT * count:
        return None
    return Mean(total.inputs[0], axes, (*views, node, *more, total), is_plain=False)


def without_views(
    context: RewriteContext, value: ir.Value | None
) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """Return the value that has the same elements in the same order, and the nodes behind it.

    Expand counts where it repeats nothing. All shapes must be known.
    """
    nodes: list[ir.Node] = []
    while (node := producer(value, *_VIEWS, "Expand")) is not None:
        data = node.inputs[0]
        before, after = _sizes(context, data), _sizes(context, node.outputs[0])
        if before is None or before != after:
            break
        nodes.append(node)
        value = data
    return value, tuple(nodes)


def _sizes(context: RewriteContext, value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the number of elements for a small and a larger batch; None where one is not known."""
    shapes = context.shapes_of_batches(value)
    if shapes is None or any(None in shape for shape in shapes):
        return None
    return tuple(math.prod(extent or 0 for extent in shape) for shape in shapes)


def _axes(context: RewriteContext, node: ir.Node) -> tuple[int, ...] | None:
    shape = None if node.inputs[0] is None else context.shapes.get(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "GlobalAveragePool":
        return tuple(range(2, len(shape)))
    return reduced_axes(node, len(shape))


def reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a reduction, from 0 on, in rising order; None where they are computed or left out.

    Source: operators ReduceMean and ReduceSum; the axes are an input from opset 18 and 13 on.
    """
    given = node.attributes.get_ints("axes", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_tensor(node.inputs[1])
        given = None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
    return tuple(sorted({axis % rank for axis in given})) if given and rank else None


def has_kept_shape(context: RewriteContext, value: ir.Value, data: ir.Value, axes: tuple[int, ...]) -> bool:
    """Return whether a value has the shape of the data with these axes reduced to 1, for every batch."""
    shapes = context.shapes_of_batches(data)
    if shapes is None:
        return False
    few, many = (_kept(shape, axes) for shape in shapes)
    return context.shapes_of_batches(value) == (few, many)


def _kept(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))


def broadcast_mean(context: RewriteContext, value: ir.Value | None) -> Mean | None:
    """Return a value as a mean that meets its data element by element: of their shape, or with axes of 1."""
    repeated = producer(value, "Expand")
    mean = mean_of(context, value)
    if mean is None and repeated is not None and value is not None:
        mean = mean_of(context, repeated.inputs[0])
        shapes = context.shapes_of_batches(value)
        if mean is None or shapes is None or shapes != context.shapes_of_batches(mean.data):
            return None
        mean = Mean(mean.data, mean.axes, (repeated, *mean.nodes), is_plain=False)
        value = repeated.inputs[0]
    if mean is None or value is None:
        return None
    return mean if has_kept_shape(context, value, mean.data, mean.axes) else None
