"""LayerNormalization that exporters write out, in the forms that the runtime does not fuse by itself.

With m the mean and v the variance over the last axes, y = (x - m) / sqrt(v + epsilon) * scale + shift, also
as y = x r + (shift - m r) with r = scale / sqrt(v + epsilon).

Source: ONNX operator LayerNormalization (opset 17).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.rewrite.for_runtime.expressions import (
    inner_producer,
    is_inner,
    producer,
    reader,
    scalar,
    sum_of,
)
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, replace

_OPSET = 17


@dataclass
class _Norm:
    """Parts of a LayerNormalization that have been recognised so far."""

    data: ir.Value
    mean: ir.Value
    epsilon: float
    axes: tuple[int, ...]
    nodes: list[ir.Node] = field(default_factory=list)
    root: ir.Node | None = None
    scale: ir.Value | None = None
    shift: ir.Value | None = None
    is_usual: bool = False


def find_layer_norms(context: RewriteContext) -> Iterator[Match]:
    """Yield LayerNormalizations in other forms than Pow, Div, Mul, Add, which the runtime fuses itself."""
    for sqrt in context.nodes("Sqrt"):
        norm = _statistics(context, sqrt)
        if norm is None or not _rest(norm, sqrt) or norm.root is None:
            continue
        if norm.is_usual and norm.scale is not None and norm.shift is not None:
            continue
        extents = _normalised(context, norm)
        if extents is None or not _fits(norm.scale, extents) or not _fits(norm.shift, extents):
            continue
        what = f"{len(norm.nodes)} nodes that compute a LayerNormalization become one"
        nodes = (norm.root, *(node for node in norm.nodes if node is not norm.root))
        yield Match(nodes, what, _OPSET, partial(_apply, context, norm, extents))


def _statistics(context: RewriteContext, sqrt: ir.Node) -> _Norm | None:
    """Return data, mean and axes of ``sqrt(mean((x - mean(x))^2) + epsilon)``."""
    total = None if sqrt.inputs[0] is None else sum_of(sqrt.inputs[0])
    if total is None or not total.nodes or len(total.addends) != 1 or not 0 < total.constant < 0.1:
        return None
    variance = inner_producer(total.addends[0], "ReduceMean")
    squares = None if variance is None else inner_producer(variance.inputs[0], "Mul", "Pow")
    if variance is None or squares is None:
        return None
    centred = squares.inputs[0]
    is_square = squares.inputs[1] is centred if squares.op_type == "Mul" else scalar(squares.inputs[1]) == 2.0
    difference = producer(centred, "Sub")
    mean = None if difference is None else producer(difference.inputs[1], "ReduceMean")
    if not is_square or difference is None or mean is None or mean.inputs[0] is not difference.inputs[0]:
        return None
    data = difference.inputs[0]
    axes = None if data is None else _last_axes(context, mean, data)
    if data is None or axes is None or axes != _last_axes(context, variance, data):
        return None
    nodes = [sqrt, *total.nodes, variance, squares, difference, mean]
    return _Norm(data, mean.outputs[0], total.constant, axes, nodes, is_usual=squares.op_type == "Pow")


def _last_axes(context: RewriteContext, node: ir.Node, data: ir.Value) -> tuple[int, ...] | None:
    """Return the axes of a reduction as negative numbers, where they are the last ones, and stay."""
    if not node.attributes.get_int("keepdims", 1):
        return None
    given = node.attributes.get_ints("axes", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_tensor(node.inputs[1])
        given = None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
    shape = context.shapes.get(data)
    if not given or shape is None:
        return None
    axes = tuple(sorted(axis if axis < 0 else axis - len(shape) for axis in given))
    return axes if axes == tuple(range(-len(axes), 0)) else None


def _rest(norm: _Norm, sqrt: ir.Node) -> bool:
    """Recognise what follows the square root; return whether it is a normalisation."""
    deviation = sqrt.outputs[0]
    divided = reader(deviation, "Div")
    if divided is not None and divided.inputs[1] is deviation:
        if not _is_centred(norm, divided.inputs[0]):
            return False
        norm.nodes.append(divided)
        return _affine(norm, divided)
    norm.is_usual = False
    inverse = reader(deviation, "Reciprocal")
    if inverse is None:
        return False
    norm.nodes.append(inverse)
    return _times_inverse(norm, inverse.outputs[0])


def _is_centred(norm: _Norm, value: ir.Value | None) -> bool:
    """Return whether a value is ``x - mean``, from the same node or another one."""
    node = producer(value, "Sub")
    if node is None or node.inputs[0] is not norm.data or node.inputs[1] is not norm.mean:
        return False
    norm.nodes += [] if node in norm.nodes else [node]
    return True


def _times_inverse(norm: _Norm, inverse: ir.Value) -> bool:
    """Recognise products with ``1 / sqrt(v + epsilon)``: ``(x - m) r`` or ``x r + (shift - m r)``."""
    scaled = reader(inverse, "Mul")
    if scaled is None:
        return _centred_or_split(norm, inverse)
    other = _other(scaled, inverse)
    if other is not None and constant_tensor(other) is not None:
        norm.scale = other
        norm.nodes.append(scaled)
        return _centred_or_split(norm, scaled.outputs[0])
    return _centred_or_split(norm, inverse)


def _centred_or_split(norm: _Norm, factor: ir.Value) -> bool:
    uses = [use.node for use in factor.uses()]
    if factor.is_graph_output() or any(node.op_type != "Mul" for node in uses):
        return False
    if len(uses) == 1:
        if not _is_centred(norm, _other(uses[0], factor)):
            return False
        norm.nodes.append(uses[0])
        return _affine(norm, uses[0])
    if len(uses) != 2:
        return False
    of_data = next((node for node in uses if _other(node, factor) is norm.data), None)
    of_mean = next((node for node in uses if _other(node, factor) is norm.mean), None)
    moved = None if of_mean is None else reader(of_mean.outputs[0], "Sub")
    if of_data is None or of_mean is None or moved is None or moved.inputs[1] is not of_mean.outputs[0]:
        return False
    root = reader(moved.outputs[0], "Add")
    shift = moved.inputs[0]
    if root is None or shift is None or constant_tensor(shift) is None:
        return False
    if _other(root, moved.outputs[0]) is not of_data.outputs[0] or not is_inner(of_data.outputs[0]):
        return False
    norm.shift, norm.root = shift, root
    norm.nodes += [of_data, of_mean, moved, root]
    return True


def _affine(norm: _Norm, node: ir.Node) -> bool:
    """Recognise a scale and a shift behind the normalised value; the last node is the root."""
    norm.root = node
    if norm.scale is None and (scaled := reader(node.outputs[0], "Mul")) is not None:
        other = _other(scaled, node.outputs[0])
        if other is not None and constant_tensor(other) is not None:
            norm.scale, norm.root = other, scaled
            norm.nodes.append(scaled)
    if (shifted := reader(norm.root.outputs[0], "Add")) is not None:
        other = _other(shifted, norm.root.outputs[0])
        if other is not None and constant_tensor(other) is not None:
            norm.shift, norm.root = other, shifted
            norm.nodes.append(shifted)
    return True


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the operand of a node of two that is not ``value``."""
    left, right = node.inputs[0], node.inputs[1]
    return right if left is value else left


def _normalised(context: RewriteContext, norm: _Norm) -> tuple[int, ...] | None:
    shape = context.shapes.get(norm.data)
    extents = None if shape is None else shape[-len(norm.axes) :]
    if extents is None or any(extent is None for extent in extents):
        return None
    dtype = context.dtypes.get(norm.data)
    return tuple(int(extent or 0) for extent in extents) if dtype == ir.DataType.FLOAT else None


def _fits(parameter: ir.Value | None, extents: tuple[int, ...]) -> bool:
    """Return whether a parameter is one number for each element of the normalised axes, or one for all."""
    tensor = None if parameter is None else constant_tensor(parameter)
    if tensor is None:
        return parameter is None
    shape = tuple(tensor.shape.numpy())
    lead, own = shape[: -len(extents)], shape[-len(extents) :]
    return all(extent == 1 for extent in lead) and all(
        one in (1, extent) for one, extent in zip(own[::-1], extents[::-1], strict=False)
    )


def _apply(context: RewriteContext, norm: _Norm, extents: tuple[int, ...]) -> None:
    if norm.root is None:
        return
    name = norm.root.outputs[0].name or "norm"
    attributes = {"axis": -len(extents), "epsilon": norm.epsilon}
    node = replace(context, norm.root, "LayerNormalization", [norm.data], attributes)
    for index, (parameter, default) in enumerate(((norm.scale, 1.0), (norm.shift, None)), start=1):
        tensor = None if parameter is None else constant_tensor(parameter)
        if tensor is None:
            if default is not None:
                constant_for(context, node, index, np.full(extents, default, np.float32), f"{name}_scale")
            continue
        array = np.asarray(tensor.numpy())
        own = array.reshape(array.shape[max(0, array.ndim - len(extents)) :])
        full = np.ascontiguousarray(np.broadcast_to(own, extents))
        constant_for(context, node, index, full, f"{name}_{'shift' if index == 2 else 'scale'}")
