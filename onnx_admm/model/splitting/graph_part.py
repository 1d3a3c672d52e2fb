"""A part of a graph as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import extract

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.splitting.cut_points import Part
from onnx_admm.model.view import ModelView


def graph_part(view: ModelView, part: Part, dtypes: Mapping[str, np.dtype[np.generic]]) -> ModelView:
    """Make a model of a part: it reads what it needs of the inputs and earlier values, and gives ``gives``.

    Args:
        view: the whole model; its constants are shared, not copied.
        part: of ``cut_into_parts``.
        dtypes: types of the earlier values, known from a run.

    Raises:
        UnsupportedModel: the part has no boundary that can be fed.
    """
    whole = view.graph_ir
    inputs = [value.name or "" for value in whole.graph.inputs]
    try:
        graph = extract(whole.graph, [*inputs, *part.reads], part.gives)
    except ValueError as error:
        raise UnsupportedModel("a part of the graph cannot stand alone", got=str(error)) from error
    for value in graph.inputs:
        if (dtype := dtypes.get(value.name or "")) is not None:
            value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(dtype)), None
    for value in graph.outputs:
        value.shape = None  # a stored shape may be wrong, and an output's is checked
    kept = [value for value in graph.inputs if value.uses() or value in graph.outputs]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    functions = list(whole.functions.values())
    return ModelView(ir.Model(graph, ir_version=whole.ir_version, functions=functions))
