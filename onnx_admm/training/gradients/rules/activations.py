"""Gradients of activations.

Comparisons give masks of 0 and 1 that are multiplied: ``Where`` takes six times as long.
"""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


def _over(tape: Tape, node: GradientNode, value: str, bound: float) -> str:
    """1 where a value is over a bound, else 0."""
    return tape.mask(tape.write("Greater", value, tape.constant(bound, node.dtype)), node.dtype)


def _under(tape: Tape, node: GradientNode, value: str, bound: float) -> str:
    """1 where a value is under a bound, else 0."""
    return tape.mask(tape.write("Less", value, tape.constant(bound, node.dtype)), node.dtype)


def _one_minus(tape: Tape, node: GradientNode, value: str) -> str:
    return tape.write("Sub", tape.constant(1, node.dtype), value)


def _between(tape: Tape, node: GradientNode, mask: str, outside: float, inside: float | str) -> str:
    """``inside`` where the mask is 1, ``outside`` where it is 0."""
    if isinstance(inside, str):
        raised = tape.write("Sub", inside, tape.constant(outside, node.dtype)) if outside else inside
        chosen = tape.write("Mul", mask, raised)
    else:
        chosen = tape.scaled(mask, inside - outside, node.dtype)
    return tape.write("Add", chosen, tape.constant(outside, node.dtype)) if outside else chosen


@rule("Relu")
def relu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 where y > 0."""
    if node.y in tape.absorbed:
        return {0: node.dy}
    return {0: tape.write("Mul", node.dy, _over(tape, node, node.y, 0))}


@rule("ThresholdedRelu")
def thresholded_relu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 where x > alpha."""
    return {0: tape.write("Mul", node.dy, _over(tape, node, node.x, node.get("alpha", 1.0)))}


@rule("LeakyRelu")
def leaky_relu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 where x > 0, else alpha."""
    slope = _between(tape, node, _over(tape, node, node.x, 0), node.get("alpha", 0.01), 1.0)
    return {0: tape.write("Mul", node.dy, slope)}


@rule("PRelu")
def parametric_relu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 where x >= 0, else the slope; the slope takes min(x, 0)."""
    x, slope = node.inputs
    found = {}
    if node.wants(0):
        below = _under(tape, node, x, 0)
        lowered = tape.write("Mul", below, tape.write("Sub", slope, tape.constant(1, node.dtype)))
        found[0] = tape.write("Mul", node.dy, tape.write("Add", lowered, tape.constant(1, node.dtype)))
    if node.wants(1):
        lower = tape.write("Min", x, tape.constant(0, node.dtype))
        shapes = node.input_shapes
        found[1] = tape.sum_to(tape.write("Mul", node.dy, lower), shapes[0], shapes[1])
    return found


@rule("Elu")
def elu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 where x > 0, else y + alpha."""
    alpha = node.get("alpha", 1.0)
    below = tape.write(
        "Add", tape.write("Min", node.y, tape.constant(0, node.dtype)), tape.constant(alpha, node.dtype)
    )
    over = _over(tape, node, node.x, 0)
    slope = tape.write("Add", over, tape.write("Mul", _one_minus(tape, node, over), below))
    return {0: tape.write("Mul", node.dy, slope)}


@rule("Sigmoid")
def sigmoid(tape: Tape, node: GradientNode) -> dict[int, str]:
    """y (1 - y)."""
    return {0: tape.product(node.dy, tape.write("Mul", node.y, _one_minus(tape, node, node.y)))}


@rule("Tanh")
def tanh(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 - y^2."""
    return {0: tape.write("Mul", node.dy, _one_minus(tape, node, tape.write("Mul", node.y, node.y)))}


@rule("HardSigmoid")
def hard_sigmoid(tape: Tape, node: GradientNode) -> dict[int, str]:
    """alpha where 0 < y < 1."""
    inside = tape.write("Mul", _over(tape, node, node.y, 0), _under(tape, node, node.y, 1))
    return {0: tape.write("Mul", node.dy, tape.scaled(inside, node.get("alpha", 0.2), node.dtype))}


@rule("HardSwish")
def hard_swish(tape: Tape, node: GradientNode) -> dict[int, str]:
    """With h = clip(x/6 + 1/2, 0, 1): h + x/6 where 0 < h < 1."""
    part = tape.scaled(node.x, 1 / 6, node.dtype)
    gate = tape.write("Add", part, tape.constant(0.5, node.dtype))
    clipped = tape.write("Clip", gate, tape.constant(0, node.dtype), tape.constant(1, node.dtype))
    inside = tape.mask(tape.write("Equal", gate, clipped), node.dtype)
    return {0: tape.write("Mul", node.dy, tape.write("Add", clipped, tape.write("Mul", part, inside)))}


@rule("Swish")
def swish(tape: Tape, node: GradientNode) -> dict[int, str]:
    """With s = sigmoid(alpha x): s + alpha x s (1 - s)."""
    scaled = tape.scaled(node.x, node.get("alpha", 1.0), node.dtype)
    gate = tape.write("Sigmoid", scaled)
    bent = tape.product(scaled, gate, _one_minus(tape, node, gate))
    return {0: tape.write("Mul", node.dy, tape.write("Add", gate, bent))}


@rule("Softplus")
def softplus(tape: Tape, node: GradientNode) -> dict[int, str]:
    """sigmoid(x)."""
    return {0: tape.write("Mul", node.dy, tape.write("Sigmoid", node.x))}


@rule("Softsign")
def softsign(tape: Tape, node: GradientNode) -> dict[int, str]:
    """(1 - |y|)^2."""
    root = _one_minus(tape, node, tape.write("Abs", node.y))
    return {0: tape.product(node.dy, root, root)}


@rule("Gelu")
def gelu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Phi(x) + x phi(x), or that of its approximation by tanh.

    Source: Gelu of opset 20; https://onnx.ai/onnx/operators/onnx__Gelu.html
    """
    slope = _tanh_gelu_slope if node.get("approximate", "none") == "tanh" else _gelu_slope
    return {0: tape.write("Mul", node.dy, slope(tape, node, node.x))}


def _gelu_slope(tape: Tape, node: GradientNode, x: str) -> str:
    one = tape.constant(1, node.dtype)
    bell = tape.write("Exp", tape.scaled(tape.write("Mul", x, x), -0.5, node.dtype))
    density = tape.scaled(bell, 1 / np.sqrt(2 * np.pi), node.dtype)
    below = tape.write("Add", tape.write("Erf", tape.scaled(x, np.sqrt(0.5), node.dtype)), one)
    return tape.write("Add", tape.scaled(below, 0.5, node.dtype), tape.write("Mul", x, density))


def _tanh_gelu_slope(tape: Tape, node: GradientNode, x: str) -> str:
    """With t = tanh(u), u = c (x + 0.044715 x^3): (1 + t)/2 + x/2 (1 - t^2) c (1 + 0.134145 x^2)."""
    one, c = tape.constant(1, node.dtype), float(np.sqrt(2 / np.pi))
    square = tape.write("Mul", x, x)
    cubic = tape.write("Add", tape.scaled(square, 0.044715, node.dtype), one)
    t = tape.write("Tanh", tape.scaled(tape.write("Mul", x, cubic), c, node.dtype))
    bent = tape.write("Add", tape.scaled(square, 3 * 0.044715, node.dtype), one)
    tail = tape.product(x, _one_minus(tape, node, tape.write("Mul", t, t)), tape.scaled(bent, c, node.dtype))
    return tape.scaled(tape.write("Add", tape.write("Add", t, one), tail), 0.5, node.dtype)


@rule("Gelu", "QuickGelu", domain="com.microsoft")
def microsoft_gelu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Gelu as ONNX Runtime's own operators have it: exact, or x sigmoid(alpha x)."""
    if node.operator == "Gelu":
        return {0: tape.write("Mul", node.dy, _gelu_slope(tape, node, node.x))}
    scaled = tape.scaled(node.x, node.get("alpha", 1.702), node.dtype)
    gate = tape.write("Sigmoid", scaled)
    bent = tape.product(scaled, gate, _one_minus(tape, node, gate))
    return {0: tape.write("Mul", node.dy, tape.write("Add", gate, bent))}


@rule("BiasGelu", "FastGelu", domain="com.microsoft")
def microsoft_biased_gelu(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Gelu of x + bias, by tanh in FastGelu."""
    x = tape.write("Add", node.x, node.inputs[1]) if node.has(1) else node.x
    slope = _tanh_gelu_slope if node.operator == "FastGelu" else _gelu_slope
    gradient = tape.write("Mul", node.dy, slope(tape, node, x))
    found = {0: gradient}
    if node.wants(1):
        found[1] = tape.sum_to(gradient, node.output_shapes[0], node.input_shapes[1])
    return found


@rule("Softmax")
def softmax(tape: Tape, node: GradientNode) -> dict[int, str]:
    """y (dy - sum(dy y)) along the axis."""
    weighted = tape.write("Mul", node.dy, node.y)
    total = tape.sum(weighted, [_axis(node)], keep=True)
    return {0: tape.write("Sub", weighted, tape.write("Mul", node.y, total))}


@rule("LogSoftmax")
def log_softmax(tape: Tape, node: GradientNode) -> dict[int, str]:
    """dy - exp(y) sum(dy) along the axis."""
    total = tape.sum(node.dy, [_axis(node)], keep=True)
    return {0: tape.write("Sub", node.dy, tape.write("Mul", tape.write("Exp", node.y), total))}


def _axis(node: GradientNode) -> int:
    """Return the axis of a softmax.

    Raises:
        UnsupportedVariant: it has no axis (a number).
    """
    rank = len(node.output_shapes[0])
    if not rank:
        raise UnsupportedVariant("a softmax of a number")
    return int(node.get("axis", -1)) % rank
