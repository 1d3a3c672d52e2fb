"""Initializers that are also graph inputs: mandatory before IR version 4, defaults from there on.

Before IR version 4 every initializer is listed among the graph's inputs, without a meaning. In memory none is
listed: reading removes them from the inputs, writing lists them again. From IR version 4 on an initializer
that is listed is the default of an input that a caller may override. It is no constant then: nothing may be
folded, decoded or encoded that depends on it (see ``constants``). Exporters that list all of their
initializers do not intend that; `unlist` turns them into constants.

Source: ONNX IR specification, initializers as default values of inputs (IR version 4).
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION

_BY_HABIT = 0.9


def unlist_mandatory(model: ir.Model) -> None:
    """Remove the initializers of a model that was just read from its inputs, where listing is mandatory."""
    if model.ir_version < LEAST_IR_VERSION:
        unlist(model)


def list_mandatory(model: ir.Model) -> None:
    """List the initializers of a model to be written among its inputs, where that is mandatory."""
    if model.ir_version < LEAST_IR_VERSION:
        graph = model.graph
        graph.inputs.extend(value for value in graph.initializers.values() if not value.is_graph_input())


def unlist(model: ir.Model) -> tuple[str, ...]:
    """Turn every default of an input into a constant, which is no input any more.

    Returns:
        Their names, in the order of the inputs.
    """
    listed = [value for value in model.graph.inputs if value.is_initializer()]
    for value in listed:
        model.graph.inputs.remove(value)
    return tuple(value.name or "" for value in listed)


def listed_by_habit(model: ir.Model) -> bool:
    """Return whether nine tenths or more of the main graph's initializers are listed as inputs."""
    stored = model.graph.initializers
    listed = sum(value.is_graph_input() for value in stored.values())
    return bool(stored) and listed >= _BY_HABIT * len(stored)
