"""Shapes of a model's values, as far as inputs of known extent determine them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.shape_propagation import ShapePropagation, extents, is_standard
from onnx_admm.model.edit import ValueRef
from onnx_admm.model.view import ModelView

Shape = tuple[int | None, ...]

_MOST_EXTENT = 2**31 - 1  # of a bound axis
_ANY_EXTENT = 640  # of open axes: often divisible by two, and large enough for most kernels


@dataclass(frozen=True, slots=True)
class Inference:
    """Result of shape inference.

    Attributes:
        inferred_copies: by value of the model, the value of a copy with its inferred shape, type and
            constant.
        open_axes: axes of inputs that stayed open, as ``bindings`` would name them.
    """

    inferred_copies: Mapping[ir.Value, ir.Value]
    open_axes: tuple[str, ...]


def infer_shapes(view: ModelView, bindings: Mapping[str, int] | None = None) -> dict[ValueRef, Shape]:
    """Return the shapes of the view's values for one sample, as `infer` sees them; None for unknown extents.

    A symbolic first axis of an input that ``bindings`` leaves open counts as 1.

    Raises:
        UsageError: as `infer`.
    """
    inferred_copies = infer(view, bindings, first_axis=1).inferred_copies
    return {
        ValueRef(value): extents(inferred)
        for value, inferred in inferred_copies.items()
        if inferred.shape is not None
    }


def infer_open_shapes(view: ModelView) -> dict[ValueRef, Shape]:
    """Return the shapes of the view's values with every open axis left open; None for unknown extents."""
    return {
        ValueRef(value): extents(inferred)
        for value, inferred in infer(view).inferred_copies.items()
        if inferred.shape is not None
    }


def infer(
    view: ModelView, bindings: Mapping[str, int] | None = None, *, first_axis: int | None = None
) -> Inference:
    """Infer the shapes and types of the view's values by standard shape inference.

    Stored shapes of intermediate values are ignored. Shape computations (Shape, Gather, Concat and the like)
    are evaluated where they are small, with bounds; ONNX's own data propagation is not used, since a model
    can make it fill the memory. Values inside functions are not included: their shapes depend on the call.

    Args:
        view: the model.
        bindings: extents by symbol, such as ``{"N": 1, "frames": 160}``, or by place: ``{"x[1]": 576}``.
        first_axis: extent of symbolic first axes that ``bindings`` leaves open; None leaves them open.

    Raises:
        UsageError: an axis that no input has or leaves open, or an extent below 1.
    """
    copy = view.fork().graph_ir
    inferred_copies = dict(zip(_values(view.graph_ir), _values(copy), strict=True))
    open_axes = _bind_inputs(copy.graph, dict(bindings or {}), first_axis)
    _forget(copy)
    for found in view.found_sites().values():
        inferred = inferred_copies.get(found.value)
        if inferred is not None and found.lookup is None:
            inferred.shape, inferred.dtype = (
                ir.Shape(found.site.shape),
                ir.DataType.from_numpy(np.dtype(found.site.dtype)),
            )
    ShapePropagation(copy, view.opset).run()
    return Inference(inferred_copies, open_axes)


def wrong_shapes(view: ModelView) -> dict[str, tuple[Shape, Shape]]:
    """Return inner values whose stored shape contradicts the graph, by name: stored and inferred shape.

    Exporters leave shapes that were right for one size of an open axis, or never. The runtime uses them: it
    shares buffers that do not fit, or chooses kernels by them.
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
    """Remove stored shapes and types of inner values that shape inference reproduces.

    The runtime infers them as it loads a file, whether they are stored or not.
    """
    inferred_copies = infer(view).inferred_copies
    for value in _values(view.graph_ir):
        node, inferred = value.producer(), inferred_copies[value]
        if node is None or not is_standard(node) or value.shape is None or value.is_graph_output():
            continue
        if inferred.shape == value.shape and inferred.type == value.type:
            value.shape = value.type = None


def _agree(stored: Shape, right: Shape) -> bool:
    """Return whether both shapes may be true; a negative extent is an open one."""
    pairs = zip(stored, right, strict=False)
    return len(stored) == len(right) and all(
        one is None or other is None or one < 0 or one == other for one, other in pairs
    )


def bind_extents(view: ModelView, bindings: Mapping[str, int]) -> tuple[ModelView, tuple[str, ...]]:
    """Return a fork whose inputs have these extents, and the axes that stay open.

    Raises:
        UsageError: as `infer`.
    """
    fork = view.fork()
    return fork, _bind_inputs(fork.graph_ir.graph, bindings, None)


# -- preparing -------------------------------------------------------------------------------


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield every value of the main graph and its subgraphs, in an order that a clone shares."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from (value for value in graph.initializers.values() if not value.is_graph_input())
        for node in graph:
            yield from node.outputs


def _bind_inputs(graph: ir.Graph, bindings: Mapping[str, int], first_axis: int | None) -> tuple[str, ...]:
    """Set the extents of open axes; return the names of those that stay open."""
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
    """Remove stored shapes of values that standard operators compute."""
    for graph in model.graphs():
        for node in graph:
            if is_standard(node):
                for value in node.outputs:
                    value.shape = None


def _dims(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return value.shape.dims if value.shape is not None else ()


def forget_shapes(view: ModelView) -> None:
    """Remove stored shapes of values that the main graph computes, except graph outputs."""
    for node in view.graph_ir.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def forget_wrong_shapes(view: ModelView) -> dict[str, tuple[Shape, Shape]]:
    """Remove all stored shapes where some contradict the graph; return those as ``wrong_shapes`` does."""
    wrong = wrong_shapes(view)
    if wrong:
        forget_shapes(view)
    return wrong
