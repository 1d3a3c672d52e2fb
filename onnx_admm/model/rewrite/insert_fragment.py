"""Adds a fragment to a model, and replaces stored constants by its results."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.edit import free_name, raise_ir_version, taken_names
from onnx_admm.model.files.tensor_proto import tensor_proto
from onnx_admm.model.files.wire_sizes import Array
from onnx_admm.model.rewrite.fragment import Fragment
from onnx_admm.model.view import ModelView


def insert_fragment(view: ModelView, fragment: Fragment, replacements: Mapping[str, str]) -> None:
    """Insert ``fragment`` in front of the main graph; readers of a stored constant read its output.

    Args:
        view: the model; its opset must be the fragment's.
        fragment: nodes and constants; their names are made unique.
        replacements: name of a site, or of a stored constant of the main graph -> name in the fragment. The
            constant is removed, and its replacement takes its name; subgraphs read it from outside.

    Raises:
        UsageError: no constant of that name, or a fragment of another opset.
    """
    if fragment.opset != view.opset:
        raise UsageError("a fragment of another opset", got=fragment.opset, expected=view.opset)
    model = view.graph_ir
    graph = model.graph
    taken = taken_names(model)
    values: dict[str, ir.Value] = {}
    for name, array in fragment.constants.items():
        values[name] = _initializer(graph, free_name(name, taken), array)
    nodes = []
    for spec in fragment.nodes:
        inputs = [values[name] if name else None for name in spec.inputs]
        node = ir.node(spec.op_type, inputs, dict(spec.attributes), num_outputs=len(spec.outputs), name="")
        for name, value in zip(spec.outputs, node.outputs, strict=True):
            value.name = free_name(name, taken)
            values[name] = value
        nodes.append(node)
    if len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)
    constants = _main_constants(graph)
    if not constants.keys() >= replacements.keys():  # computed weights, and those of subgraphs
        constants |= {name: found.value for name, found in view.found_sites().items()}
    names = {}
    for name, inner in replacements.items():
        if name not in constants:
            raise UsageError("no constant of that name", where=name)
        names[inner] = constants[name].name
        _replace(constants[name], values[inner])
    raise_ir_version(model, fragment.least_ir_version)
    view.strip_unused()
    for inner, old_name in names.items():
        if old_name not in taken_names(model):
            values[inner].name = old_name


def clear_input(view: ModelView, value_name: str, slots: Mapping[str, int]) -> int:
    """Leave out an optional input wherever it reads the constant ``value_name``.

    Args:
        view: the model.
        value_name: name of the constant.
        slots: operator -> index of the optional input.

    Returns:
        Number of changed nodes.
    """
    cleared = 0
    for node in view.graph_ir.graph.all_nodes():
        index = slots.get(node.op_type)
        if index is None or index >= len(node.inputs) or node.domain not in ("", "ai.onnx"):
            continue
        value = node.inputs[index]
        if value is not None and value.name == value_name:
            node.replace_input_with(index, None)
            if index == len(node.inputs) - 1:
                node.resize_inputs(index)
            cleared += 1
    return cleared


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.serde.deserialize_tensor(tensor_proto(name, array))
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def _main_constants(graph: ir.Graph) -> dict[str, ir.Value]:
    computed = (node.outputs[0] for node in graph if node.op_type == "Constant")
    return dict(graph.initializers) | {value.name: value for value in computed if value.name}


def _replace(old: ir.Value, new: ir.Value) -> None:
    graph = old.graph
    old.replace_all_uses_with(new)
    if old.is_initializer() and graph is not None and old.name is not None:
        del graph.initializers[old.name]
