"""Uses of a weight, and the same graph with inner values, or their shapes, as its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model.edit import NodeRef
from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView


@dataclass(frozen=True, slots=True)
class WeightUse:
    """One node that reads a weight, and the index of the weight's input."""

    node: NodeRef
    index: int


def weight_uses(view: ModelView, site: WeightSite) -> tuple[WeightUse, ...]:
    """Return every node that reads the site's weight, in graph order."""
    found = view.found_sites()[site.name]
    return tuple(WeightUse(NodeRef(node, site.scope), index) for node, index in found.uses)


def expose_values(view: ModelView, names: Sequence[str]) -> ModelView:
    """Return a model that computes the named values of the main graph and nothing else; its inputs stay.

    Weights are shared with the view.

    Args:
        view: the model.
        names: outputs of nodes of the main graph, each once.

    Raises:
        UsageError: no node of the main graph computes such a value.
    """
    model = view.graph_ir
    computed = {value.name: value for node in model.graph for value in node.outputs if value.name}
    if unknown := [name for name in names if name not in computed]:
        raise UsageError("no node of the main graph computes that value", where=", ".join(unknown))
    part = ir.convenience.extract(model.graph, model.graph.inputs, [computed[name] for name in names])
    for value in part.outputs:
        value.shape = None  # a stored shape may be wrong, and an output's is checked
    functions = tuple(model.functions.values())
    return ModelView(ir.Model(part, ir_version=model.ir_version, functions=functions))


def expose_shapes(view: ModelView, names: Sequence[str]) -> ModelView:
    """Return a model that gives the shapes of the named values, int64, in the order of the names.

    The runtime need not keep the values themselves.

    Args:
        view: the model.
        names: as for ``expose_values``.

    Raises:
        UsageError: no node of the main graph computes such a value.
    """
    exposed = expose_values(view, names)
    graph = exposed.graph_ir.graph
    for number, value in enumerate(tuple(graph.outputs)):
        shape = ir.node("Shape", [value])
        shape.outputs[0].name, shape.outputs[0].type = (
            f"{value.name}::shape",
            ir.TensorType(ir.DataType.INT64),
        )
        graph.append(shape)
        graph.outputs[number] = shape.outputs[0]
    return exposed
