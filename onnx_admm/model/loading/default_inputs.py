"""Initializers that double as graph inputs: mandatory before IR version 4, defaults from there on.

Before IR version 4 every initializer is listed among the graph's inputs, and that says nothing. In memory
none is listed: reading takes them out of the inputs, writing lists them again. From IR version 4 on an
initializer that is listed is the default of an input that a caller may override. It is no constant then:
nothing may be folded, decoded or encoded that depends on it (see ``constants``). Exporters that list all of
their initializers do not mean that; `unlist` makes constants of them.

Source: ONNX IR specification, initializers as default values of inputs (IR version 4).
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION

_BY_HABIT = 0.9


def unlist_mandatory(model: ir.Model) -> None:
    """Take the initializers of a model that was just read out of its inputs where they had to be there."""
    if model.ir_version < LEAST_IR_VERSION:
        unlist(model)


def list_mandatory(model: ir.Model) -> None:
    """List the initializers of a model that is about to be written among its inputs where they have to be."""
    if model.ir_version < LEAST_IR_VERSION:
        graph = model.graph
        graph.inputs.extend(value for value in graph.initializers.values() if not value.is_graph_input())


def unlist(model: ir.Model) -> tuple[str, ...]:
    """Make every default of an input a constant: it is no input any more.

    Returns:
        Their names, in the order of the inputs.
    """
    listed = [value for value in model.graph.inputs if value.is_initializer()]
    for value in listed:
        model.graph.inputs.remove(value)
    return tuple(value.name or "" for value in listed)


def listed_by_habit(model: ir.Model) -> bool:
    """Whether nine tenths or more of the main graph's initializers are listed as inputs."""
    stored = model.graph.initializers
    listed = sum(value.is_graph_input() for value in stored.values())
    return bool(stored) and listed >= _BY_HABIT * len(stored)
