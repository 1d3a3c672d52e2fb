"""Gradients of normalisations. A batch normalisation keeps its statistics, as in inference."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_admm.model.differentiation.records import Shape
from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape

_EPSILON = 1e-5


@rule("BatchNormalization")
def batch_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """With s = 1 / sqrt(var + eps): dx = scale s dy, dscale = sum(dy (x - mean) s), dbias = sum(dy).

    The gradients of mean and variance follow as for any other input.
    """
    if node.get("training_mode", 0):
        raise UnsupportedVariant("training_mode 1")
    x, scale, _, mean, variance = node.inputs[:5]
    shape = node.input_shapes[0]
    columns = [1, -1, *[1] * (len(shape) - 2)]
    axes = [axis for axis in range(len(shape)) if axis != 1]
    deviation = tape.write("Sqrt", _plus(tape, node, variance, node.get("epsilon", _EPSILON)))
    slope = tape.write("Div", scale, deviation)
    found = {}
    if node.wants(0):
        found[0] = tape.write("Mul", node.dy, tape.reshape(slope, columns))
    if node.wants(1) or node.wants(4):
        centred = tape.write("Sub", x, tape.reshape(mean, columns))
        projected = tape.sum(tape.write("Mul", node.dy, centred), axes)
        if node.wants(1):
            found[1] = tape.write("Div", projected, deviation)
        if node.wants(4):
            square = tape.write("Mul", deviation, deviation)
            halved = tape.scaled(tape.write("Mul", projected, slope), -0.5, node.dtype)
            found[4] = tape.write("Div", halved, square)
    total = tape.sum(node.dy, axes) if node.wants(2) or node.wants(3) else ""
    if node.wants(2):
        found[2] = total
    if node.wants(3):
        found[3] = tape.write("Neg", tape.write("Mul", total, slope))
    return found


def _plus(tape: Tape, node: GradientNode, value: str, number: float) -> str:
    return tape.write("Add", value, tape.constant(number, node.dtype))


def normalised(tape: Tape, node: GradientNode, shape: Shape, axes: Sequence[int], x: str) -> tuple[str, str]:
    """(x - mean) / deviation over axes, and one over the deviation."""
    centred = tape.write("Sub", x, tape.mean(x, shape, axes, node.dtype))
    return divided_by_root_mean_square(tape, node, shape, axes, centred)


def divided_by_root_mean_square(
    tape: Tape, node: GradientNode, shape: Shape, axes: Sequence[int], x: str
) -> tuple[str, str]:
    """x / sqrt(mean(x^2) + epsilon), and the divisor's reciprocal."""
    square = tape.mean(tape.write("Mul", x, x), shape, axes, node.dtype)
    root = tape.write("Sqrt", _plus(tape, node, square, node.get("epsilon", _EPSILON)))
    inverse = tape.write("Reciprocal", root)
    return tape.write("Mul", x, inverse), inverse


def through_normalised(
    tape: Tape,
    node: GradientNode,
    shape: Shape,
    axes: Sequence[int],
    parts: tuple[str, str, str],
    *,
    centred: bool,
) -> str:
    """Return the gradient of x from that of the normalised values.

    Args:
        tape: takes the nodes.
        node: gives the dtype.
        shape: of x.
        axes: that are normalised over.
        parts: the normalised values, the reciprocal deviation, and the gradient of the normalised values.
        centred: whether the mean was taken away.
    """
    values, inverse, gradient = parts
    along = tape.mean(tape.write("Mul", gradient, values), shape, axes, node.dtype)
    rest = tape.write("Sub", gradient, tape.write("Mul", values, along))
    if centred:
        rest = tape.write("Sub", rest, tape.mean(gradient, shape, axes, node.dtype))
    return tape.write("Mul", rest, inverse)


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Normalised over the last axes, then scaled (and shifted) there."""
    if any(gradient is not None for gradient in node.gradients[1:]):
        raise UnsupportedVariant("an output but the first is differentiated")
    centred = node.operator == "LayerNormalization"
    shape = node.input_shapes[0]
    first = int(node.get("axis", -1)) % len(shape)
    axes = tuple(range(first, len(shape)))
    prepare = normalised if centred else divided_by_root_mean_square
    values, inverse = prepare(tape, node, shape, axes, node.x)
    found = {}
    if node.wants(0):
        gradient = tape.write("Mul", node.dy, node.inputs[1])
        found[0] = through_normalised(tape, node, shape, axes, (values, inverse, gradient), centred=centred)
    if node.wants(1):
        found[1] = tape.sum_to(tape.write("Mul", node.dy, values), shape, node.input_shapes[1])
    if node.wants(2):
        found[2] = tape.sum_to(node.dy, shape, node.input_shapes[2])
    return found


@rule("InstanceNormalization")
def instance_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Normalised over the spatial axes, then scaled and shifted by channel."""
    shape = node.input_shapes[0]
    axes = tuple(range(2, len(shape)))
    columns = [1, shape[1], *[1] * len(axes)]
    values, inverse = normalised(tape, node, shape, axes, node.x)
    found = {}
    if node.wants(0):
        gradient = tape.write("Mul", node.dy, tape.reshape(node.inputs[1], columns))
        found[0] = through_normalised(tape, node, shape, axes, (values, inverse, gradient), centred=True)
    if node.wants(1):
        found[1] = tape.sum(tape.write("Mul", node.dy, values), [0, *axes])
    if node.wants(2):
        found[2] = tape.sum(node.dy, [0, *axes])
    return found


@rule("GroupNormalization")
def group_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Normalised over groups of channels, scaled and shifted by channel (opset 21) or by group (18)."""
    shape = node.input_shapes[0]
    n, channels, groups = shape[0], shape[1], int(node.get("num_groups"))
    inner = shape[2:]
    apart = (n, groups, channels // groups, *inner)
    axes = tuple(range(2, len(apart)))
    values, inverse = normalised(tape, node, apart, axes, tape.reshape(node.x, apart))
    dy = tape.reshape(node.dy, apart)
    by_channel = node.input_shapes[1] == (channels,)
    fine = (1, groups, channels // groups if by_channel else 1, *[1] * len(inner))
    found = {}
    if node.wants(0):
        gradient = tape.write("Mul", dy, tape.reshape(node.inputs[1], fine))
        parts = (values, inverse, gradient)
        found[0] = tape.reshape(through_normalised(tape, node, apart, axes, parts, centred=True), shape)
    for index, product in ((1, values), (2, "")):
        if node.wants(index):
            gradient = tape.write("Mul", dy, product) if product else dy
            found[index] = tape.reshape(tape.sum_to(gradient, apart, fine), node.input_shapes[index])
    return found


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return a layer normalisation of input + skip (+ bias)."""
    is_plain = node.operator == "SkipLayerNormalization"
    shape = node.input_shapes[0]
    axes = (len(shape) - 1,)
    bias = 4 if is_plain else 3
    x = tape.write("Add", node.x, node.inputs[1])
    if node.has(bias):
        x = tape.write("Add", x, node.inputs[bias])
    prepare = normalised if is_plain else divided_by_root_mean_square
    values, inverse = prepare(tape, node, shape, axes, x)
    gradient = tape.write("Mul", node.dy, node.inputs[2])
    total = through_normalised(tape, node, shape, axes, (values, inverse, gradient), centred=is_plain)
    if len(node.gradients) > 3 and node.gradients[3] is not None:  # the sum is an output too
        total = tape.write("Add", total, node.gradients[3])
    found = {
        index: tape.sum_to(total, shape, node.input_shapes[index])
        for index in (0, 1, bias)
        if node.wants(index)
    }
    if node.wants(2):
        found[2] = tape.sum_to(tape.write("Mul", node.dy, values), shape, node.input_shapes[2])
    if is_plain and node.wants(3):
        found[3] = tape.sum_to(node.dy, shape, node.input_shapes[3])
    return found


@rule("LpNormalization")
def lp_normalization(tape: Tape, node: GradientNode) -> dict[int, str]:
    """y = x / |x|_2 along an axis: dx = (dy - y sum(dy y)) / |x|_2."""
    if node.get("p", 2) != 2:
        raise UnsupportedVariant("p is no 2")
    axis = [int(node.get("axis", -1)) % len(node.input_shapes[0])]
    norm = tape.write("Sqrt", tape.sum(tape.write("Mul", node.x, node.x), axis, keep=True))
    along = tape.sum(tape.write("Mul", node.dy, node.y), axis, keep=True)
    return {0: tape.write("Div", tape.write("Sub", node.dy, tape.write("Mul", node.y, along)), norm)}
