"""Shapes, parameters and multiply-accumulates of every node that holds weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import ValueRef
from onnx_admm.model.evaluate import Array, NotEvaluated, evaluate_node, is_evaluable
from onnx_admm.model.sites import WeightSite, label
from onnx_admm.model.view import ModelView

Shape = tuple[int | None, ...]

_SMALL = 4096  # elements of a shape computation; anything larger is data
_BIG_BYTES = 1024  # weights above this are left out of what shape inference is given
_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """What a cost model may know of one weight of one node.

    Attributes:
        node: the node that uses the weight.
        op_type: its operator.
        weight_shape: dense shape of the weight.
        output_shape: shape of the node's first output; None where an extent is unknown.
        parameters: elements of the weight; 0 where a tied weight was counted at an earlier node.
        macs: multiply-accumulates with this weight, zeros included; None where an extent is unknown.
        nonzeros: elements that are not zero, counted like ``parameters``.
        bits: bits one weight is stored in.
        weight: name of the weight's site.
    """

    node: str
    op_type: str
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int | None
    nonzeros: int
    bits: int
    weight: str = ""


def layer_profiles(view: ModelView, bindings: Mapping[str, int] | None = None) -> tuple[LayerProfile, ...]:
    """One row for each use of each weight, in graph order.

    A symbolic first axis of an input that ``bindings`` leaves open counts as 1: figures are per sample. Any
    other open extent leaves ``macs`` and ``output_shape`` None where they depend on it, never 0.

    Args:
        view: the model.
        bindings: extents by symbol, such as ``{"N": 1, "frames": 160}``, or by place: ``{"x[1]": 576}``.

    Raises:
        UsageError: an axis that no input has or leaves open, or an extent below 1.
    """
    shapes = infer_shapes(view, bindings)
    rows: list[LayerProfile] = []
    for found in view.found_sites().values():
        site, array = found.site, view.read(found.site)
        counted = site.size, int(np.count_nonzero(array))
        for node, index in found.uses:
            output = shapes.get(ValueRef(node.outputs[0]))
            rows.append(
                LayerProfile(
                    node=label(node),
                    op_type=node.op_type,
                    weight_shape=site.shape,
                    output_shape=_known(output),
                    parameters=counted[0],
                    macs=_macs(node, index, shapes),
                    nonzeros=counted[1],
                    bits=_stored_bits(view, site, array),
                    weight=site.name,
                )
            )
            counted = 0, 0
    return tuple(rows)


def infer_shapes(view: ModelView, bindings: Mapping[str, int] | None = None) -> dict[ValueRef, Shape]:
    """Shapes of the view's values as standard shape inference sees them; None for unknown extents.

    Stored shapes of intermediate values are not believed. Shape computations (Shape, Gather, Concat and the
    like) are carried out where they are small, with bounds; ONNX's own data propagation is not, as it can be
    made to fill the memory.

    Raises:
        UsageError: as ``layer_profiles``.
    """
    copy = view.fork().graph_ir
    pairs = list(zip(_values(view.graph_ir), _values(copy), strict=True))
    twins = dict(pairs)
    _bind_inputs(copy.graph, dict(bindings or {}))
    _forget(copy)
    for found in view.found_sites().values():
        twin = twins.get(found.value)
        if twin is not None:  # none inside functions, whose shapes depend on the call
            twin.shape, twin.dtype = (
                ir.Shape(found.site.shape),
                ir.DataType.from_numpy(np.dtype(found.site.dtype)),
            )
    opset = view.opset
    for _ in range(_ROUNDS):
        if not _infer(copy) or not _fold(copy, opset):
            break
    return {ValueRef(original): _extents(twin) for original, twin in pairs if twin.shape is not None}


# -- preparing -------------------------------------------------------------------------------


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value of the main graph and its subgraphs, in an order that a clone shares."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from (value for value in graph.initializers.values() if not value.is_graph_input())
        for node in graph:
            yield from node.outputs


def _bind_inputs(graph: ir.Graph, bindings: Mapping[str, int]) -> None:
    open_axes = {
        (value, axis): (f"{value.name}[{axis}]", extent.value if isinstance(extent, ir.SymbolicDim) else None)
        for value in graph.inputs
        if not value.is_initializer()
        for axis, extent in enumerate(_dims(value))
        if not isinstance(extent, int) or extent < 0
    }
    names = {name for axis_names in open_axes.values() for name in axis_names if name}
    for name, extent in bindings.items():
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise UsageError("no input has that open axis", where=name, expected=f"one of {known}")
        if extent < 1:
            raise UsageError("an axis needs a positive extent", where=name, got=extent)
    batch = {symbol: 1 for (_, axis), (_, symbol) in open_axes.items() if axis == 0 and symbol}
    for (value, axis), (place, symbol) in open_axes.items():
        default = batch.get(symbol or "", 1 if axis == 0 else None)
        named: int | None = bindings.get(symbol, default) if symbol else default
        bound = bindings.get(place, named)
        dims: list[int | str | None] = [d if isinstance(d, int) else d.value for d in _dims(value)]
        dims[axis] = symbol if bound is None else bound
        value.shape = ir.Shape(dims)


def _forget(model: ir.Model) -> None:
    """Drop stored shapes of what standard operators compute, and weights too big for a shape computation."""
    for graph in model.graphs():
        for node in graph:
            if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, ""):
                for value in node.outputs:
                    value.shape = None
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _BIG_BYTES:
            value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
            del graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                graph.inputs.append(value)


# -- inferring -------------------------------------------------------------------------------


def _infer(model: ir.Model) -> bool:
    """One run of ONNX shape inference into ``model``; False where it gives up."""
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=False, data_prop=False)
    except (onnx.shape_inference.InferenceError, ValueError):
        return False
    inferred = ir.from_proto(proto)
    for value, twin in zip(_values(model), _values(inferred), strict=True):
        if twin.shape is not None:
            value.shape = twin.shape
        if twin.type is not None:
            value.type = twin.type
    return True


def _fold(model: ir.Model, opset: int) -> bool:
    """Turn small computations on constants and known shapes into constants; whether there was any."""
    changed = False
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Constant" or len(node.outputs) != 1 or not is_evaluable(node):
                continue
            array = _shape_value(node) if node.op_type in ("Shape", "Size") else _small_value(node, opset)
            if array is not None and array.size <= _SMALL:
                _become_constant(node, array)
                changed = True
    return changed


def _shape_value(node: ir.Node) -> Array | None:
    source = node.inputs[0]
    extents = None if source is None or source.shape is None else _known(_extents(source))
    if extents is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(extents), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(extents))
    return np.array(extents[start:end], np.int64)


def _small_value(node: ir.Node, opset: int) -> Array | None:
    tensors = [None if value is None else constant_tensor(value) for value in node.inputs]
    for value, tensor in zip(node.inputs, tensors, strict=True):
        if value is not None and (tensor is None or tensor.size > _SMALL):
            return None
    arrays = [None if tensor is None else np.asarray(tensor.numpy()) for tensor in tensors]
    try:
        return evaluate_node(node, arrays, opset, _SMALL)[0]
    except NotEvaluated:
        return None


def _become_constant(node: ir.Node, array: Array) -> None:
    node.op_type = "Constant"
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", ir.tensor(np.ascontiguousarray(array).reshape(array.shape))))
    node.outputs[0].shape = ir.Shape(array.shape)


# -- counting --------------------------------------------------------------------------------


def _macs(node: ir.Node, index: int, shapes: dict[ValueRef, Shape]) -> int | None:
    """Multiply-accumulates of the product with operand ``index``; None where an extent is unknown."""
    operand, source = node.inputs[index], node.inputs[0]
    if node.op_type == "Gather":
        return 0  # a lookup multiplies nothing
    weight = None if operand is None else _known(shapes.get(ValueRef(operand)))
    data = None if source is None else _known(shapes.get(ValueRef(source)))
    output = _known(shapes.get(ValueRef(node.outputs[0])))
    if weight is None:
        return None
    match node.op_type:
        case "Conv":
            return None if output is None else math.prod(output) * math.prod(weight[1:])
        case "ConvTranspose":
            return None if data is None else math.prod(data) * math.prod(weight[1:])
        case "LSTM" | "GRU" | "RNN":
            return None if data is None else math.prod(data[:2]) * math.prod(weight)
        case _:
            return None if output is None else math.prod(output) * weight[_inner_axis(node, index)]


def _inner_axis(node: ir.Node, index: int) -> int:
    """The axis of operand ``index`` that a Gemm or MatMul sums over."""
    if node.op_type == "Gemm":
        transposed = bool(node.attributes.get_int("transB" if index else "transA", 0))
        return int(transposed == (index == 1))
    return -2 if index else -1


def _stored_bits(view: ModelView, site: WeightSite, array: Array) -> int:
    if site.editable:
        return 8 * array.dtype.itemsize
    levels = math.ceil(math.log2(max(2, len(np.unique(array)))))
    return min(view.decoded(site).stored_bits, levels)


def _dims(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return value.shape.dims if value.shape is not None else ()


def _extents(value: ir.Value) -> Shape:
    return tuple(extent if isinstance(extent, int) else None for extent in _dims(value))


def _known(shape: Shape | None) -> tuple[int, ...] | None:
    if shape is None or any(extent is None for extent in shape):
        return None
    return tuple(extent for extent in shape if extent is not None)
