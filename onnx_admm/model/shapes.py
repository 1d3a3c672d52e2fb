"""Shapes of a model's values, as far as inputs of known extent determine them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.limits import RunBudget, current_budget
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import ValueRef
from onnx_admm.model.evaluate import Array, NotEvaluated, evaluate_node, is_evaluable
from onnx_admm.model.fragment import LEAST_IR_VERSION
from onnx_admm.model.view import ModelView

Shape = tuple[int | None, ...]

_SMALL = 4096  # elements of a shape computation; anything larger is data
_BIG_BYTES = 1024  # weights above this are left out of what shape inference is given
_ROUNDS = 64
_MOST_EXTENT = 2**31 - 1  # of a bound axis
_ANY_EXTENT = 640  # of open axes: a multiple of what most models halve, and large enough for their kernels


@dataclass(frozen=True, slots=True)
class Inference:
    """What shape inference sees of a model.

    Attributes:
        twins: by value of the model, the value of a copy that bears what was inferred: shape, type, constant.
        open_axes: axes of inputs that stayed open, as ``bindings`` would name them.
    """

    twins: Mapping[ir.Value, ir.Value]
    open_axes: tuple[str, ...]


def infer_shapes(view: ModelView, bindings: Mapping[str, int] | None = None) -> dict[ValueRef, Shape]:
    """Shapes of the view's values for one sample, as `infer` sees them; None for unknown extents.

    A symbolic first axis of an input that ``bindings`` leaves open counts as 1.

    Raises:
        UsageError: as `infer`.
    """
    twins = infer(view, bindings, first_axis=1).twins
    return {ValueRef(value): extents(twin) for value, twin in twins.items() if twin.shape is not None}


def infer(
    view: ModelView, bindings: Mapping[str, int] | None = None, *, first_axis: int | None = None
) -> Inference:
    """Shapes and types of the view's values as standard shape inference sees them.

    Stored shapes of intermediate values are not believed. Shape computations (Shape, Gather, Concat and the
    like) are carried out where they are small, with bounds; ONNX's own data propagation is not, as it can be
    made to fill the memory. Values inside functions are not among them: their shapes depend on the call.

    Args:
        view: the model.
        bindings: extents by symbol, such as ``{"N": 1, "frames": 160}``, or by place: ``{"x[1]": 576}``.
        first_axis: extent of symbolic first axes that ``bindings`` leaves open; None leaves them open.

    Raises:
        UsageError: an axis that no input has or leaves open, or an extent below 1.
    """
    copy = view.fork().graph_ir
    copy.ir_version = max(
        copy.ir_version, LEAST_IR_VERSION
    )  # else inference looks at listed initializers alone
    twins = dict(zip(_values(view.graph_ir), _values(copy), strict=True))
    open_axes = _bind_inputs(copy.graph, dict(bindings or {}), first_axis)
    _forget(copy)
    for found in view.found_sites().values():
        twin = twins.get(found.value)
        if twin is not None:
            twin.shape, twin.dtype = (
                ir.Shape(found.site.shape),
                ir.DataType.from_numpy(np.dtype(found.site.dtype)),
            )
    opset, budget = view.opset, current_budget()
    for _ in range(_ROUNDS):
        if not _infer(copy) or not _fold(copy, opset, budget):
            break
    return Inference(twins, open_axes)


def wrong_shapes(view: ModelView) -> dict[str, tuple[Shape, Shape]]:
    """Inner values whose stored shape contradicts the graph: what is stored, and what is inferred; by name.

    Exporters leave shapes behind that held for one size of an open axis, or never. The runtime believes them:
    it shares buffers that do not fit, or chooses kernels by them.
    """
    bindings = {
        f"{port.name}[{axis}]": _ANY_EXTENT
        for port in view.signature().inputs
        for axis, extent in enumerate(port.shape or ())
        if axis > 0 and not (isinstance(extent, int) and extent >= 0)
    }
    inferred = infer_shapes(view, bindings)
    found: dict[str, tuple[Shape, Shape]] = {}
    for value in _values(view.graph_ir):
        if value.shape is None or value.producer() is None or value.is_graph_output():
            continue
        stored, right = extents(value), inferred.get(ValueRef(value))
        if right is not None and not _agree(stored, right):
            found[value.name or ""] = stored, right
    return found


def leave_out_implied_shapes(view: ModelView) -> None:
    """Forget stored shapes and types of inner values that shape inference finds again just so.

    The runtime infers them as it loads a file, whether they are stored or not.
    """
    twins = infer(view).twins
    for value in _values(view.graph_ir):
        node, twin = value.producer(), twins[value]
        if node is None or not _is_standard(node) or value.shape is None or value.is_graph_output():
            continue
        if twin.shape == value.shape and twin.type == value.type:
            value.shape = value.type = None


def _agree(stored: Shape, right: Shape) -> bool:
    """Whether both may be true; a negative extent is an open one."""
    pairs = zip(stored, right, strict=False)
    return len(stored) == len(right) and all(
        one is None or other is None or one < 0 or one == other for one, other in pairs
    )


def bind_extents(view: ModelView, bindings: Mapping[str, int]) -> tuple[ModelView, tuple[str, ...]]:
    """A fork whose inputs have these extents, and the axes that stay open.

    Raises:
        UsageError: as `infer`.
    """
    fork = view.fork()
    return fork, _bind_inputs(fork.graph_ir.graph, bindings, None)


# -- preparing -------------------------------------------------------------------------------


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value of the main graph and its subgraphs, in an order that a clone shares."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from (value for value in graph.initializers.values() if not value.is_graph_input())
        for node in graph:
            yield from node.outputs


def _bind_inputs(graph: ir.Graph, bindings: Mapping[str, int], first_axis: int | None) -> tuple[str, ...]:
    """Give open axes their extents; the names of those that stay open."""
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
        if not 1 <= extent <= _MOST_EXTENT:
            raise UsageError(
                "an axis needs a positive extent", where=name, got=extent, expected=f"1 to {_MOST_EXTENT}"
            )
    batch = {symbol: first_axis for (_, axis), (_, symbol) in open_axes.items() if axis == 0 and symbol}
    left = []
    for (value, axis), (place, symbol) in open_axes.items():
        default = batch.get(symbol or "", first_axis if axis == 0 else None)
        named = bindings.get(symbol, default) if symbol else default
        bound = bindings.get(place, named)
        if bound is None:
            left.append(symbol or place)
        dims: list[int | str | None] = [d if isinstance(d, int) else d.value for d in _dims(value)]
        dims[axis] = symbol if bound is None else bound
        value.shape = ir.Shape(dims)
    return tuple(dict.fromkeys(left))


def _forget(model: ir.Model) -> None:
    """Drop stored shapes of what standard operators compute, and weights too big for a shape computation."""
    for graph in model.graphs():
        for node in graph:
            if _is_standard(node):
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


def _is_standard(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx") and bool(onnx.defs.has(node.op_type, ""))


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


def _fold(model: ir.Model, opset: int, budget: RunBudget) -> bool:
    """Turn small computations on constants and known shapes into constants; whether there was any."""
    changed = False
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Constant" or len(node.outputs) != 1 or not is_evaluable(node):
                continue
            array = (
                _shape_value(node) if node.op_type in ("Shape", "Size") else _small_value(node, opset, budget)
            )
            if array is not None and array.size <= _SMALL:
                _become_constant(node, array)
                changed = True
    return changed


def _shape_value(node: ir.Node) -> Array | None:
    source = node.inputs[0]
    shape = None if source is None or source.shape is None else known(extents(source))
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _small_value(node: ir.Node, opset: int, budget: RunBudget) -> Array | None:
    tensors = [None if value is None else constant_tensor(value) for value in node.inputs]
    for value, tensor in zip(node.inputs, tensors, strict=True):
        if value is not None and (tensor is None or tensor.size > _SMALL):
            return None
    arrays = [None if tensor is None else np.asarray(tensor.numpy()) for tensor in tensors]
    try:
        return evaluate_node(node, arrays, opset, _SMALL, budget)[0]
    except NotEvaluated:
        return None


def _become_constant(node: ir.Node, array: Array) -> None:
    node.op_type = "Constant"
    node.resize_inputs(0)
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", ir.tensor(np.ascontiguousarray(array).reshape(array.shape))))
    node.outputs[0].shape = ir.Shape(array.shape)


def _dims(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return value.shape.dims if value.shape is not None else ()


def extents(value: ir.Value) -> Shape:
    """The value's shape, None for unknown extents; () where it has none, so look first."""
    return tuple(extent if isinstance(extent, int) else None for extent in _dims(value))


def known(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape where every extent is known, else None."""
    if shape is None or any(extent is None for extent in shape):
        return None
    return tuple(extent for extent in shape if extent is not None)
