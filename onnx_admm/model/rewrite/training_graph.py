"""The training graph of a model: a lowered copy that computes one scalar loss, ADMM's terms included.

For every trained weight W the copy computes ``W_eff = W * free + fixed`` (masked retraining, levels fixed a
fraction at a time) and adds ``rho/2 * ||W_eff - target||^2`` to the loss (the augmented term of ADMM-NN,
arXiv 1812.11677 section 3). ``free``, ``fixed``, ``target`` and ``rho`` are initializers that the trainer
sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from onnx_admm.errors import NoGradient, TrainingError
from onnx_admm.model.analysis.class_axis import ClassAxis, classifier_head, first_computed
from onnx_admm.model.analysis.gradient_path import biases_beside, check_differentiable
from onnx_admm.model.constants import why_fixed
from onnx_admm.model.edit import new_initializer
from onnx_admm.model.loading.default_inputs import unlist
from onnx_admm.model.loading.map_outputs import drop_tail
from onnx_admm.model.loading.model_files import serialize_model
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.rewrite.differentiable import make_differentiable
from onnx_admm.model.rewrite.lower_ir_version import lower_ir_version
from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView

MAX_OPSET, MAX_IR = 21, 10
"""Newest versions that onnxruntime-training-cpu 1.19.2 loads."""

_INITIALIZERS_ALONE = 4
"""The IR version from which an initializer need not be a graph input too."""

MIN_OPSET = 13
"""Gemm has a gradient from opset 11; the loss operators used here need 13."""

LABELS, TEACHER = "admm::labels", "admm::teacher"
"""Names of the training graph's inputs in addition to the model's own."""

_PLAIN = {"Identity", "Cast", "Squeeze", "ZipMap"}
_SHAPE_KEEPING = {"Softmax", "LogSoftmax", "Hardmax", "Identity", "Cast"}
_PREFIX = "admm::"


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Terms of the scalar loss.

    Attributes:
        label_weight: factor of the cross-entropy against integer labels.
        divergence_weight: factor of T^2 KL(teacher || student), fed as teacher probabilities.
        squared_weight: factor of the mean squared error against the teacher's outputs.
        temperature: T of the divergence.
        class_axis: class axis of the logits; not negative.
        rank: rank of the logits.
        ignored_label: a label that is ignored.
    """

    label_weight: float = 0.0
    divergence_weight: float = 0.0
    squared_weight: float = 0.0
    temperature: float = 1.0
    class_axis: int = 1
    rank: int = 2
    ignored_label: int = -1


@dataclass(frozen=True)
class TrainingForm:
    """A serialised training graph and the names that control it.

    Attributes:
        proto: ModelProto bytes; its only output is the loss.
        trained: names of the trained tensors, the same as in the user's model.
        steered: names of parameters with targets, masks and penalties.
        inputs: inputs in addition to the model's own: ``LABELS``, one for each place of each sample, shape
            (places,), and ``TEACHER``, of the logits' shape.
    """

    proto: bytes
    trained: tuple[str, ...]
    steered: tuple[str, ...]
    inputs: tuple[str, ...]


def weight_input_name(weight: str) -> str:
    """Return the name of the parameter with the 0/1 mask of trained entries."""
    return f"{_PREFIX}free::{weight}"


def fixed_name(weight: str) -> str:
    """Return the name of the parameter with the values of entries that are not trained."""
    return f"{_PREFIX}fixed::{weight}"


def target_name(weight: str) -> str:
    """Return the name of the parameter with ADMM's ``Z - U``."""
    return f"{_PREFIX}target::{weight}"


def rho_name(weight: str) -> str:
    """Return the name of the parameter with half of ADMM's penalty, shape (1,)."""
    return f"{_PREFIX}rho::{weight}"


def parse_form(proto: bytes) -> onnx.ModelProto:
    """Return the training graph as the protobuf that the artifact builder takes."""
    return onnx.load_from_string(proto)


def cut_at_logits(model: ModelView) -> tuple[ModelView, ClassAxis | None]:
    """Return a fork whose only output is the logits of the first output.

    A classifier is cut in front of its Softmax or ArgMax (see ``class_axis``). Where the classes lie along
    several axes together, these are joined as the last axis.

    Returns:
        The fork, and the class axis of the scores; None for any other model.
    """
    cut = model.fork()
    drop_tail(cut.graph_ir)
    graph = cut.graph_ir.graph
    head = classifier_head(cut.graph_ir)
    value = first_computed(graph) if head is None else head.value
    if head is None:
        while (
            (node := value.producer()) is not None and node.op_type in _PLAIN and node.inputs[0] is not None
        ):
            value = _unwrapped(value, node)
    else:
        for reader, _ in value.uses():
            _unwrapped(reader.outputs[0], reader)
    axis = None if head is None else head.axis
    if axis is not None and axis.joint:
        value, axis = _joined(graph, value, axis), replace(axis, joint=False)
    graph.outputs.clear()
    graph.outputs.append(value)
    RemoveUnusedNodesPass()(cut.graph_ir)
    if value.shape is None or value.dtype is None:
        ShapeInferencePass(data_prop=False)(cut.graph_ir)
    return cut, axis


def _unwrapped(value: ir.Value, node: ir.Node) -> ir.Value:
    """Return the input of a node at the end of a graph, with its type and shape where they follow."""
    source = node.inputs[0]
    if source is None:
        return value
    if node.op_type in _SHAPE_KEEPING and source.shape is None:
        source.shape = value.shape
    if node.op_type in _SHAPE_KEEPING - {"Cast"} and source.type is None:
        source.type = value.type
    return source


def _joined(graph: ir.Graph, value: ir.Value, axis: ClassAxis) -> ir.Value:
    """Return the value with all axes from the class axis on joined."""
    shape = new_initializer(graph, f"{_PREFIX}joined", np.array([0] * axis.scores + [-1], np.int64))
    node = ir.node("Reshape", [value, shape])
    graph.append(node)
    node.outputs[0].name = f"{_PREFIX}scores"
    node.outputs[0].type = value.type
    return node.outputs[0]


def training_form(model: ModelView, sites: Sequence[WeightSite], loss: LossSpec) -> TrainingForm:
    """Build the training graph of ``model`` for ``sites`` and their biases.

    Raises:
        NoGradient: a site is in a subgraph, is not float32, or does not reach the loss; or a node with a
            subgraph is on the path to it.
        UnsupportedModel: the model cannot be converted to an opset that the training runtime loads.
    """
    cut, _ = cut_at_logits(model)
    cut = convert_opset(cut, at_least=MIN_OPSET, at_most=MAX_OPSET)
    graph = cut.graph_ir.graph
    lift_constants(graph, {site.name for site in sites})
    name_nodes(graph)
    make_differentiable(graph)
    unlist(cut.graph_ir)
    cut.graph_ir.ir_version = max(cut.ir_version, _INITIALIZERS_ALONE)
    weights = [trained_initializer(graph, site) for site in sites]
    fixed = {name for name, value in model.graph_ir.graph.initializers.items() if why_fixed(value)}
    check_differentiable(graph, weights)
    biases = list(biases_beside(graph, weights, fixed))
    penalties = [_steer(graph, weight) for weight in weights]
    terms, inputs = _loss_terms(graph, loss)
    total = added_up(graph, [*terms, *penalties])
    graph.outputs.clear()
    graph.outputs.append(total)
    names = [value.name or "" for value in (*weights, *biases)]
    steered = [
        f(w.name or "") for w in weights for f in (weight_input_name, fixed_name, target_name, rho_name)
    ]
    plain = serialize_model(cut.graph_ir, sparse=False)
    return TrainingForm(lower_ir_version(plain, MAX_IR), tuple(names), tuple(steered), tuple(inputs))


def name_nodes(graph: ir.Graph) -> None:
    """Name every node, so that errors about a missing gradient can name it."""
    for node in graph:
        node.name = node.name or node.outputs[0].name or node.op_type


def lift_constants(graph: ir.Graph, names: set[str]) -> None:
    """Turn Constant nodes with trained weights into initializers of the same name."""
    for node in list(graph):
        value = node.outputs[0] if node.op_type == "Constant" else None
        if value is None or value.name not in names:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        lifted = ir.Value(name=value.name, const_value=tensor, shape=value.shape, type=value.type)
        value.name = f"{_PREFIX}lifted::{value.name}"
        ir.convenience.replace_all_uses_with(value, lifted)
        graph.remove(node)
        graph.register_initializer(lifted)


def trained_initializer(graph: ir.Graph, site: WeightSite) -> ir.Value:
    """Return the initializer of a trained site.

    Raises:
        NoGradient: the weight does not reach the output that is trained on.
    """
    if not site.scope and site.name not in graph.initializers:
        what = "the weight does not reach the model's first output, the one that is trained on"
        raise NoGradient(what, where=site.name, hint="Leave it out (`exclude` in a recipe).")
    if site.dtype != "float32":
        what = "only float32 weights can be fine-tuned"
        raise NoGradient(what, where=site.name, got=site.dtype, hint="Use --no-fine-tune.")
    if site.scope:
        hint = "Leave it out (`exclude` in a recipe), or use --no-fine-tune."
        raise NoGradient("only weights of the main graph can be fine-tuned", where=site.name, hint=hint)
    return graph.initializers[site.name]


def _steer(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    """Insert ``W * free + fixed`` behind a weight; returns its penalty term."""
    name, tensor = weight.name or "", weight.const_value
    if tensor is None:
        raise TrainingError("the weight has no value", where=name)
    shape = tuple(tensor.shape.numpy())
    free = new_initializer(graph, weight_input_name(name), np.ones(shape, np.float32))
    fixed = new_initializer(graph, fixed_name(name), np.zeros(shape, np.float32))
    target = new_initializer(graph, target_name(name), np.zeros(shape, np.float32))
    rho = new_initializer(graph, rho_name(name), np.zeros(1, np.float32))
    uses = list(weight.uses())
    masked = ir.node("Mul", [weight, free])
    effective = ir.node("Add", [masked.outputs[0], fixed])
    for user, index in uses:
        user.replace_input_with(index, effective.outputs[0])
    gap = ir.node("Sub", [effective.outputs[0], target])
    square = ir.node("Mul", [gap.outputs[0], gap.outputs[0]])
    total = ir.node("ReduceSum", [square.outputs[0]], {"keepdims": 0})
    term = ir.node("Mul", [total.outputs[0], rho])
    first = next(iter(graph))
    graph.insert_before(first, [masked, effective])
    graph.extend([gap, square, total, term])
    effective.outputs[0].dtype, effective.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(shape)
    return term.outputs[0]


def _loss_terms(graph: ir.Graph, loss: LossSpec) -> tuple[list[ir.Value], list[str]]:
    logits = graph.outputs[0]
    terms: list[ir.Value] = []
    inputs: list[str] = []
    if loss.label_weight:
        labels = ir.Value(name=LABELS, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["places"]))
        graph.inputs.append(labels)
        inputs.append(LABELS)
        operands = [class_rows(graph, logits, loss), labels]
        entropy = ir.node(
            "SoftmaxCrossEntropyLoss",
            operands,
            {"reduction": "mean", "ignore_index": loss.ignored_label},
            num_outputs=2,
        )
        graph.append(entropy)
        terms.append(scaled(graph, entropy.outputs[0], loss.label_weight))
    if loss.divergence_weight or loss.squared_weight:
        shape = ir.Shape([f"{_PREFIX}teacher_{axis}" for axis in range(loss.rank)])
        teacher = ir.Value(name=TEACHER, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        graph.inputs.append(teacher)
        inputs.append(TEACHER)
        terms.append(
            divergence_term(graph, logits, teacher, loss)
            if loss.divergence_weight
            else squared_term(graph, logits, teacher, loss.squared_weight)
        )
    return terms, inputs


def class_rows(graph: ir.Graph, logits: ir.Value, loss: LossSpec) -> ir.Value:
    """Return the logits as (places, classes), the places of all samples in the order of their labels."""
    if loss.rank == 2 and loss.class_axis == 1:
        return logits
    others = [axis for axis in range(loss.rank) if axis != loss.class_axis]
    turned = ir.node("Transpose", [logits], {"perm": [*others, loss.class_axis]})
    size = ir.node("Shape", [turned.outputs[0]])
    last = new_initializer(graph, f"{_PREFIX}last", np.array([loss.rank - 1], np.int64))
    classes = ir.node("Gather", [size.outputs[0], last], {"axis": 0})
    rest = new_initializer(graph, f"{_PREFIX}rest", np.array([-1], np.int64))
    shape = ir.node("Concat", [rest, classes.outputs[0]], {"axis": 0})
    rows = ir.node("Reshape", [turned.outputs[0], shape.outputs[0]])
    graph.extend([turned, size, classes, shape, rows])
    return rows.outputs[0]


def divergence_term(graph: ir.Graph, logits: ir.Value, teacher: ir.Value, loss: LossSpec) -> ir.Value:
    """Return -T^2 mean_places sum_c p_teacher log softmax(logits / T): KL up to the teacher's entropy."""
    cooled = scaled(graph, logits, 1.0 / loss.temperature)
    log_p = ir.node("LogSoftmax", [cooled], {"axis": loss.class_axis})
    product = ir.node("Mul", [log_p.outputs[0], teacher])
    rows = ir.node("ReduceSum", [product.outputs[0], _axes(graph, [loss.class_axis])], {"keepdims": 0})
    mean = ir.node("ReduceMean", [rows.outputs[0]], {"keepdims": 0})
    graph.extend([log_p, product, rows, mean])
    return scaled(graph, mean.outputs[0], -loss.divergence_weight * loss.temperature**2)


def squared_term(graph: ir.Graph, output: ir.Value, teacher: ir.Value, weight: float) -> ir.Value:
    """Return ``weight`` times the mean squared difference of two values."""
    gap = ir.node("Sub", [output, teacher])
    square = ir.node("Mul", [gap.outputs[0], gap.outputs[0]])
    mean = ir.node("ReduceMean", [square.outputs[0]], {"keepdims": 0})
    graph.extend([gap, square, mean])
    return scaled(graph, mean.outputs[0], weight)


def scaled(graph: ir.Graph, value: ir.Value, factor: float) -> ir.Value:
    """Return a value times a factor."""
    if factor == 1.0:
        return value
    name = f"{_PREFIX}factor::{len(graph.initializers)}"
    constant = new_initializer(graph, name, np.array([factor], np.float32))
    node = ir.node("Mul", [value, constant])
    graph.append(node)
    return node.outputs[0]


def added_up(graph: ir.Graph, terms: Sequence[ir.Value]) -> ir.Value:
    """Sum by Add (Sum has no gradient), shaped to a scalar."""
    total = terms[0]
    for term in terms[1:]:
        node = ir.node("Add", [total, term])
        graph.append(node)
        total = node.outputs[0]
    scalar = ir.node("ReduceSum", [total], {"keepdims": 0}, outputs=[ir.Value(name=f"{_PREFIX}loss")])
    graph.append(scalar)
    scalar.outputs[0].dtype, scalar.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([])
    return scalar.outputs[0]


def _axes(graph: ir.Graph, axes: list[int]) -> ir.Value:
    return new_initializer(graph, f"{_PREFIX}axes::{len(graph.initializers)}", np.array(axes, np.int64))
