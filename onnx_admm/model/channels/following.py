"""Follows channels through a graph: one rule for each kind of operator, and a reason where none fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx_admm.model.analysis.shapes import infer_open_shapes, infer_shapes
from onnx_admm.model.channels import elementwise, gathering, moving, products, shaping
from onnx_admm.model.channels.labels import Axes
from onnx_admm.model.channels.survey import NotFollowed, Survey
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.operators import Trait, has_trait, operators_with
from onnx_admm.model.view import ModelView

Rule = Callable[[Survey, NodeRef], None]

_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), products.convolution),
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), shaping.reshape),
    "Transpose": shaping.transpose,
    "DepthToSpace": shaping.depth_to_space,
    "SpaceToDepth": shaping.space_to_depth,
    "Concat": moving.concat,
    "Split": moving.split,
    "Slice": moving.slice_,
    "Gather": moving.gather,
    "Pad": moving.pad,
    "Tile": moving.tile,
    "Expand": moving.expand,
    **dict.fromkeys(("Resize", "Upsample"), moving.resize),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "MaxPool"),
        gathering.pool,
    ),
    **dict.fromkeys(
        (
            *operators_with(Trait.REDUCES),
            "ReduceL1",
            "ReduceLogSumExp",
            "ReduceSumSquare",
            "ArgMax",
            "ArgMin",
        ),
        gathering.reduce,
    ),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), gathering.per_channel_norm),
    "GroupNormalization": gathering.group_norm,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), gathering.layer_norm),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), gathering.recurrent),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization"), elementwise.along_axis
    ),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), elementwise.quantise),
    **dict.fromkeys(("Dropout", "Cast", "CastLike"), elementwise.unary),
    "PRelu": elementwise.prelu,
    **dict.fromkeys(
        ("Where", "Mod", "com.microsoft::BiasGelu", "com.microsoft::FastGelu"), elementwise.broadcast
    ),
}

_MOST_SPLITS = 16

_SIZE_READERS = ("Reshape", "Expand", "Resize")
"""Operators whose rule replaces a computed shape by a constant."""

_SIZE_ARITHMETIC = (
    *("Add", "Cast", "Concat", "Div", "Floor", "Gather", "Identity", "Mul", "ReduceProd", "Slice", "Squeeze"),
    *("Sub", "Unsqueeze"),
)


def follow(view: ModelView) -> Survey:
    """Return the labels of all channels of the main graph.

    Where an axis is split (attention heads, channel shuffles), each of its parts could keep the channels: the
    choice that leaves most weights removable is taken, the same for all splits into the same extents. Further
    ones than the first `_MOST_SPLITS` keep their longest part: each choice takes a walk over the graph.
    """
    shapes, opened = infer_shapes(view), infer_open_shapes(view)
    functions = view.function_scopes()
    nodes = [node for node in view.nodes() if node.scope not in functions and node.op_type != "Constant"]

    def attempt(splits: Mapping[tuple[int, ...], int]) -> tuple[int, Survey]:
        survey = Survey(view, shapes, opened, splits)
        for node in nodes:
            _visit(survey, node)
        _end(survey)
        return _removable(survey), survey

    splits: dict[tuple[int, ...], int] = {}
    best, survey = attempt(splits)
    for parts in list(survey.met_splits)[:_MOST_SPLITS]:
        for kept in range(len(parts)):
            score, tried = attempt({**splits, parts: kept})
            if score > best:
                best, survey = score, tried
                splits[parts] = kept
    return survey


def _visit(survey: Survey, node: NodeRef) -> None:
    """Label the outputs of a node; where that fails, the labels of its inputs must stay."""
    if node.scope:
        _block_all(survey, node, f"{node.name} in the subgraph {node.scope} reads it")
        return
    survey.asked, adjusted = set(), len(survey.adjustments)
    try:
        if node.op_type == "Shape":
            _shape(survey, node)
        elif not _is_size_arithmetic(survey, node):
            _rule(node)(survey, node)
            _check_sizes(survey, node, is_adjusted=len(survey.adjustments) > adjusted)
    except NotFollowed as reason:
        _block_all(survey, node, str(reason))
        for output in node.outputs:
            survey.axes.pop(output, None)
    survey.pinned.update(
        value
        for value in node.inputs
        if value is not None and value.constant_shape is not None and value not in survey.asked
    )


def _rule(node: NodeRef) -> Rule:
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule
    if has_trait(node.ir_node, Trait.BROADCASTS):
        return elementwise.broadcast
    if has_trait(node.ir_node, Trait.UNARY):
        return elementwise.unary
    raise NotFollowed(f"{node.op_type} {node.name} may not keep channels apart")


def _block_all(survey: Survey, node: NodeRef, reason: str) -> None:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name:
            survey.block(survey.sizes.get(value, ()), reason)
            survey.block(_labels_of(survey, value), reason)


def _labels_of(survey: Survey, value: ValueRef) -> Axes:
    try:
        return survey.of(value)
    except NotFollowed:
        return ()


# -- sizes -----------------------------------------------------------------------------------


def _shape(survey: Survey, node: NodeRef) -> None:
    axes = survey.of(node.input(0))
    survey.sizes[node.outputs[0]] = axes[slice(node.attribute("start", 0), node.attribute("end"))]


def _is_size_arithmetic(survey: Survey, node: NodeRef) -> bool:
    """Label a computation with extents, and return whether the node is one; one that channels count for."""
    read = [value for value in node.inputs if value is not None]
    if node.op_type not in _SIZE_ARITHMETIC or not any(value in survey.sizes for value in read):
        return False
    if any(value not in survey.sizes and value.constant_shape is None for value in read):
        return False
    axes = [axis for value in read for axis in survey.sizes.get(value, ())]
    if node.op_type == "Gather" and read[0] in survey.sizes:
        indices = read[1].constant()
        if indices is not None and _is_vector(survey, read[0]):
            axes = [axes[int(index)] for index in indices.reshape(-1)]
    survey.sizes[node.outputs[0]] = tuple(axes)
    return True


def _is_vector(survey: Survey, value: ValueRef) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Shape"


def _check_sizes(survey: Survey, node: NodeRef, *, is_adjusted: bool) -> None:
    """Block the channels whose number a node computes with, unless its rule has replaced it."""
    if node.op_type in _SIZE_READERS and is_adjusted:
        return
    for value in node.inputs:
        if value is not None and value in survey.sizes:
            survey.block(survey.sizes[value], f"{node.op_type} {node.name} computes with their number")


# -- the end ---------------------------------------------------------------------------------


def _end(survey: Survey) -> None:
    for value in survey.pinned:
        survey.block(survey.constants.get(value, ()), f"{value.name} says how a node works")
    for value, axes in survey.axes.items():
        if value.is_output and value.constant_shape is None:
            survey.block(axes, "its channels are an output of the model")
    for value, axes in survey.sizes.items():
        if value.is_output:
            survey.block(axes, "their number is an output of the model")


def _removable(survey: Survey) -> int:
    """Return the number of positions of weights that can be removed."""
    reasons = survey.labels.reasons()
    return sum(
        int(survey.view_size(layer.weight))
        * sum(root not in reasons for root in survey.labels.roots(layer.labels).tolist())
        // len(layer.labels)
        for layer in survey.layers
    )
