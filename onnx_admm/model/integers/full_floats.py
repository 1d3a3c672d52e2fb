"""A model that computes in float32 what it computed in float16; its inputs and outputs stay.

Processors without fp16 arithmetic compute in fp32 anyway: ONNX Runtime casts around each node, and removes
casts that cancel out. Written out, the model's layers can become integer kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.view import ModelView

_HALF, _FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")
"""Attributes that name an element type: of Cast, EyeLike, random operators, QuantizeLinear, and norms."""


def with_full_floats(view: ModelView) -> ModelView:
    """Return a fork that computes in float32; the view itself where that cannot be.

    It cannot where a function of the model's own uses float16, or a stored weight in float16 is an output.
    Values between nodes are no longer rounded to float16. Weights have the same values in float32.
    """
    if any(_is_half(value) and value.is_initializer() for value in view.graph_ir.graph.outputs):
        return view
    functions = (function.graph for function in view.graph_ir.functions.values())
    if any(_is_half(value) for graph in functions for value in _values(graph)):
        return view
    fork = view.fork()
    model = fork.graph_ir
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = constant_tensor(value)
            if tensor is not None and tensor.dtype == _HALF:
                value.const_value = _widened(tensor, value.name)
        for node in graph:
            _widen_attributes(node)
        for value in _values(graph):
            is_input = graph is model.graph and value.is_graph_input()
            if isinstance(value.type, ir.TensorType) and value.dtype == _HALF and not is_input:
                value.type = ir.TensorType(_FULL)  # copies of a model share the type
    taken = taken_names(model)
    outputs = _narrow_outputs(view, model, taken)
    for value in [each for each in model.graph.inputs if each.dtype == _HALF]:
        cast = _cast(value, _FULL, free_name(f"{value.name}_full", taken))
        for use in [use for use in value.uses() if use.node is not cast]:  # it may be an output too
            use.node.replace_input_with(use.idx, cast.outputs[0])
        first = next(iter(model.graph), None)
        if first is None:
            model.graph.append(cast)
        else:
            model.graph.insert_before(first, cast)
    for cast in outputs:
        model.graph.append(cast)
    return fork


def store_as_half(view: ModelView, names: Collection[str]) -> None:
    """Store float32 initializers of the main graph as float16 behind a Cast, which is folded at load.

    Args:
        view: the model; it is changed.
        names: initializers; those with a value that float16 does not hold stay.
    """
    graph, taken = view.graph_ir.graph, taken_names(view.graph_ir)
    for name in names:
        value = graph.initializers.get(name)
        tensor = None if value is None else constant_tensor(value)
        if value is None or tensor is None or tensor.dtype != _FULL or value.is_graph_output():
            continue
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.Value(name=free_name(f"{name}_half", taken), const_value=ir.tensor(half))
        stored.type, stored.shape = ir.TensorType(_HALF), ir.Shape(half.shape)
        graph.register_initializer(stored)
        cast = _cast(stored, _FULL, name)
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        graph.insert_before(graph[0], cast)


def _narrow_outputs(view: ModelView, model: ir.Model, taken: set[str | None]) -> list[ir.Node]:
    """Give outputs that were float16 a value of that type behind a Cast; return the casts."""
    casts = []
    stated = {value.name for value in view.graph_ir.graph.outputs if value.dtype == _HALF}
    for number, value in enumerate(model.graph.outputs):
        if value.name not in stated or value.is_graph_input() or value.is_initializer():
            continue
        name = value.name or ""
        value.name = free_name(f"{name}_full", taken)
        cast = _cast(value, _HALF, name)
        cast.outputs[0].shape = value.shape
        model.graph.outputs[number] = cast.outputs[0]
        casts.append(cast)
    return casts


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": to.value})
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(to), value.shape
    return cast


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == _HALF:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.value, attribute.value.name))
        elif name in _TYPE_ATTRIBUTES and attribute.value == _HALF.value:
            node.attributes[name] = ir.AttrInt64(name, _FULL.value)


def _widened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=name)


def _is_half(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    return value.dtype == _HALF or (tensor is not None and tensor.dtype == _HALF)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
