"""A model and its loss as one graph that can be differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnx_admm.errors import UnsupportedModel
from onnx_admm.model.analysis.gradient_path import biases_beside
from onnx_admm.model.constants import why_fixed
from onnx_admm.model.edit import new_initializer
from onnx_admm.model.loading.default_inputs import unlist
from onnx_admm.model.loading.model_files import serialize_model
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.opsets.removed_operators import write_out_removed
from onnx_admm.model.rewrite.training_graph import (
    LABELS,
    TEACHER,
    LossSpec,
    added_up,
    class_rows,
    cut_at_logits,
    divergence_term,
    lift_constants,
    name_nodes,
    scaled,
    squared_term,
    trained_initializer,
)
from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView

_OLDEST, _BODIES = 17, 18
"""The opset from which ONNX has all that gradient rules write, and that of most function bodies."""

_FIRST_IR = 4
"""The IR version from which an initializer need not be a graph input too."""

LABEL_SCALE, SHARE = "admm::label_scale", "admm::share"
"""Inputs of shape (1,): the factor of the sum of cross-entropies, and the share of a run in its batch."""


@dataclass(frozen=True)
class LossGraph:
    """A graph whose only output is the loss of one run.

    Attributes:
        proto: the model.
        weights: names of the trained weights, as in the user's model.
        biases: names of the vectors beside them that are trained too.
        inputs: what it reads beside the model's own inputs: some of ``LABELS``, ``LABEL_SCALE``, ``TEACHER``
            and ``SHARE``.
        loss: name of the output, a number.
    """

    proto: onnx.ModelProto
    weights: tuple[str, ...]
    biases: tuple[str, ...]
    inputs: tuple[str, ...]
    loss: str


def loss_graph(
    model: ModelView, sites: Sequence[WeightSite], loss: LossSpec, *, classes: int, newest_opset: int
) -> LossGraph:
    """Build the graph of the loss that ``loss`` names.

    Args:
        model: the model that is trained; it stays as it is.
        sites: its trained weights.
        loss: the terms.
        classes: extent of the class axis.
        newest_opset: what the runtime reads.

    Raises:
        NoGradient: a site lies in a subgraph, is no float32, or does not reach the loss.
        UnsupportedModel: the model cannot be brought to an opset from 17 to the newest.
    """
    cut, _ = cut_at_logits(model)
    write_out_removed(cut.graph_ir.graph, cut.opset)
    try:
        cut = convert_opset(cut, at_least=_BODIES, at_most=newest_opset)
    except UnsupportedModel:
        cut = convert_opset(cut, at_least=_OLDEST, at_most=newest_opset)
    graph = cut.graph_ir.graph
    lift_constants(graph, {site.name for site in sites})
    name_nodes(graph)
    unlist(cut.graph_ir)
    cut.graph_ir.ir_version = max(cut.ir_version, _FIRST_IR)
    weights = [trained_initializer(graph, site) for site in sites]
    fixed = {name for name, value in model.graph_ir.graph.initializers.items() if why_fixed(value)}
    biases = list(biases_beside(graph, weights, fixed))
    terms, inputs = _terms(graph, loss, classes)
    total = added_up(graph, terms)
    graph.outputs.clear()
    graph.outputs.append(total)
    return LossGraph(
        proto=onnx.load_from_string(serialize_model(cut.graph_ir, sparse=False)),
        weights=tuple(value.name or "" for value in weights),
        biases=tuple(value.name or "" for value in biases),
        inputs=tuple(inputs),
        loss=total.name or "",
    )


def _terms(graph: ir.Graph, loss: LossSpec, classes: int) -> tuple[list[ir.Value], list[str]]:
    logits = _as_float32(graph, graph.outputs[0])
    terms: list[ir.Value] = []
    inputs: list[str] = []

    def read(name: str, dtype: ir.DataType, axes: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(list(axes)))
        graph.inputs.append(value)
        inputs.append(name)
        return value

    if loss.label_weight:
        labels = read(LABELS, ir.DataType.INT64, ["places"])
        entropy = _entropy(graph, class_rows(graph, logits, loss), labels, classes)
        terms.append(_times(graph, entropy, read(LABEL_SCALE, ir.DataType.FLOAT, [1])))
    if loss.divergence_weight or loss.squared_weight:
        teacher = read(TEACHER, ir.DataType.FLOAT, [f"admm::teacher_{axis}" for axis in range(loss.rank)])
        is_divergence = bool(loss.divergence_weight)
        term = (
            divergence_term(graph, logits, teacher, loss)
            if is_divergence
            else squared_term(graph, logits, teacher, loss.squared_weight)
        )
        terms.append(_times(graph, term, read(SHARE, ir.DataType.FLOAT, [1])))
    return terms, inputs


def _as_float32(graph: ir.Graph, value: ir.Value) -> ir.Value:
    if value.dtype in (None, ir.DataType.FLOAT):
        return value
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value})
    graph.append(node)
    return node.outputs[0]


def _entropy(graph: ir.Graph, rows: ir.Value, labels: ir.Value, classes: int) -> ir.Value:
    """Return the sum of -log softmax(row)[label]; a label that is no class counts nothing.

    The classes are compared with the labels: ``SoftmaxCrossEntropyLoss`` has no kernel in a runtime for
    inference, and it divides by the labels of one run, where those of the whole batch count.
    """
    one = new_initializer(graph, "admm::behind", np.array([1], np.int64))
    numbers = new_initializer(graph, "admm::classes", np.arange(classes, dtype=np.int64)[None])
    column = ir.node("Unsqueeze", [labels, one])
    same = ir.node("Equal", [column.outputs[0], numbers])
    hot = ir.node("Cast", [same.outputs[0]], {"to": ir.DataType.FLOAT.value})
    log_p = ir.node("LogSoftmax", [rows], {"axis": -1})
    product = ir.node("Mul", [hot.outputs[0], log_p.outputs[0]])
    total = ir.node("ReduceSum", [product.outputs[0]], {"keepdims": 0})
    graph.extend([column, same, hot, log_p, product, total])
    return scaled(graph, total.outputs[0], -1.0)


def _times(graph: ir.Graph, value: ir.Value, factor: ir.Value) -> ir.Value:
    node = ir.node("Mul", [value, factor])
    graph.append(node)
    return node.outputs[0]
