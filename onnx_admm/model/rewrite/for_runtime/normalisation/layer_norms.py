"""LayerNormalization that exporters write out, in the forms that the runtime does not fuse by itself.

With m the mean and v the variance over some axes, y = (x - m) / sqrt(v + epsilon) * scale + shift, also as
y = x r + (shift - m r) with r = scale / sqrt(v + epsilon). The operator normalises the last axes. Another
axis goes to the end before it, and back behind it; the runtime merges both Transposes with others around
them. The operator stores one scale for each normalised element, so the extents of these axes must be fixed.

Source: ONNX operator LayerNormalization (opset 17).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.rewrite.for_runtime.expressions import is_inner, producer, reader, sum_of
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.normalisation.means import broadcast_mean
from onnx_admm.model.rewrite.for_runtime.normalisation.variances import variance_of
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace

_OPSET = 17

_LEAST_TURNED = 16
"""Extent of an axis that is not the last one, from which on two Transposes pay: 0.2 to 0.8 of the time."""


@dataclass
class _Norm:
    """Parts of a LayerNormalization that have been recognised so far."""

    context: RewriteContext
    data: ir.Value
    epsilon: float
    axes: tuple[int, ...]
    shape: tuple[int | None, ...]
    nodes: list[ir.Node] = field(default_factory=list)
    root: ir.Node | None = None
    scale: ir.Value | None = None
    shift: ir.Value | None = None
    is_usual: bool = False

    @property
    def is_last(self) -> bool:
        """Whether the normalised axes are the last ones."""
        return self.axes == tuple(range(len(self.shape) - len(self.axes), len(self.shape)))

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents of the normalised axes; 0 for one that is not known."""
        return tuple(self.shape[axis] or 0 for axis in self.axes)


def find_layer_norms(context: RewriteContext) -> Iterator[Match]:
    """Yield LayerNormalizations in other forms than Pow, Div, Mul, Add, which the runtime fuses itself."""
    for sqrt in context.nodes("Sqrt"):
        norm = _statistics(context, sqrt)
        if norm is None or not _rest(norm, sqrt) or norm.root is None or not _pays(norm):
            continue
        if not _fits(norm.scale, norm) or not _fits(norm.shift, norm):
            continue
        form = "one" if norm.is_last else f"one over axis {norm.axes[0]}, between two Transposes"
        what = f"{len(norm.nodes)} nodes that compute a LayerNormalization become {form}"
        nodes = (norm.root, *(node for node in norm.nodes if node is not norm.root))
        yield Match(nodes, what, _OPSET, partial(_apply, context, norm))


def _statistics(context: RewriteContext, sqrt: ir.Node) -> _Norm | None:
    """Return data and axes of ``sqrt(variance(x) + epsilon)``; None where the batch decides an extent."""
    total = None if sqrt.inputs[0] is None else sum_of(sqrt.inputs[0])
    if total is None or not total.nodes or len(total.addends) != 1 or not 0 < total.constant < 0.1:
        return None
    variance = variance_of(context, total.addends[0])
    shape = None if variance is None else context.shapes.get(variance.data)
    if variance is None or shape is None or context.dtypes.get(variance.data) != ir.DataType.FLOAT:
        return None
    nodes = list(dict.fromkeys((sqrt, *total.nodes, *variance.nodes)))
    norm = _Norm(context, variance.data, total.constant, variance.axes, shape, nodes)
    norm.is_usual = variance.is_usual and norm.is_last
    return norm if all(context.fixed_extent(norm.data, axis) for axis in norm.axes) else None


def _pays(norm: _Norm) -> bool:
    """Return whether the operator is faster than what is there."""
    if norm.is_last:
        return not (norm.is_usual and norm.scale is not None and norm.shift is not None)
    return len(norm.axes) == 1 and norm.extents[0] >= _LEAST_TURNED


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
    if node is None or node.inputs[0] is not norm.data or not _is_mean(norm, node.inputs[1]):
        return False
    _note(norm, node)
    return True


def _is_mean(norm: _Norm, value: ir.Value | None) -> bool:
    """Return whether a value is the mean of the data over the same axes."""
    mean = broadcast_mean(norm.context, value)
    if mean is None or mean.data is not norm.data or mean.axes != norm.axes:
        return False
    _note(norm, *mean.nodes)
    return True


def _note(norm: _Norm, *nodes: ir.Node) -> None:
    norm.nodes += [node for node in nodes if node not in norm.nodes]


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
    of_mean = next((node for node in uses if _is_mean(norm, _other(node, factor))), None)
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


def _fits(parameter: ir.Value | None, norm: _Norm) -> bool:
    """Return whether a parameter is one number for each element of the normalised axes, or one for all."""
    tensor = None if parameter is None else constant_tensor(parameter)
    if tensor is None:
        return parameter is None
    shape, rank = tuple(tensor.shape.numpy()), len(norm.shape)
    places = range(rank - len(shape), rank)
    return len(shape) <= rank and all(
        extent == 1 or (place in norm.axes and extent == norm.shape[place])
        for place, extent in zip(places, shape, strict=True)
    )


def _apply(context: RewriteContext, norm: _Norm) -> None:
    root = norm.root
    if root is None:
        return
    name = root.outputs[0].name or "norm"
    attributes = {"axis": -len(norm.axes), "epsilon": norm.epsilon}
    if norm.is_last:
        node = replace(context, root, "LayerNormalization", [norm.data], attributes)
    else:
        rank = len(norm.shape)
        order = [axis for axis in range(rank) if axis != norm.axes[0]] + [norm.axes[0]]
        turned = insert_before(context, root, "Transpose", [norm.data], {"perm": order})
        normalised = insert_before(context, root, "LayerNormalization", [turned], attributes)
        back = [order.index(axis) for axis in range(rank)]
        replace(context, root, "Transpose", [normalised], {"perm": back})
        inserted = normalised.producer()
        if inserted is None:
            return
        node = inserted
    for index, parameter in ((1, norm.scale), (2, norm.shift)):
        tensor = None if parameter is None else constant_tensor(parameter)
        if tensor is not None:
            array = _along(np.asarray(tensor.numpy()), norm)
            constant_for(context, node, index, array, f"{name}_{'shift' if index == 2 else 'scale'}")
        elif index == 1:
            constant_for(context, node, index, np.ones(norm.extents, np.float32), f"{name}_scale")


def _along(array: np.ndarray, norm: _Norm) -> np.ndarray:
    """Return a parameter with the extents of the normalised axes."""
    aligned = array.reshape((1,) * (len(norm.shape) - array.ndim) + array.shape)
    own = aligned.reshape([aligned.shape[axis] for axis in norm.axes])
    return np.ascontiguousarray(np.broadcast_to(own, norm.extents))
