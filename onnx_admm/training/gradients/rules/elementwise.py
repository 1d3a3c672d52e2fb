"""Gradients of arithmetic that broadcasts, of functions of one number, and of choices between values."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


def summed_to_inputs(tape: Tape, node: GradientNode, gradients: dict[int, str]) -> dict[int, str]:
    """Sum gradients of the output's shape over the axes along which each input was broadcast."""
    shape = node.output_shapes[0]
    return {index: tape.sum_to(value, shape, node.input_shapes[index]) for index, value in gradients.items()}


@rule("Add", "Sum")
def sum_of_inputs(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(a + b + ...) = da + db + ..."""
    return summed_to_inputs(
        tape, node, {index: node.dy for index, requested in enumerate(node.requested) if requested}
    )


@rule("Mean")
def mean_of_inputs(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each of n inputs takes an n-th of the gradient."""
    share = tape.scaled(node.dy, 1 / len(node.inputs), node.dtype)
    return summed_to_inputs(
        tape, node, {index: share for index, requested in enumerate(node.requested) if requested}
    )


@rule("Sub")
def difference(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(a - b) = da - db."""
    found = {}
    if node.wants(0):
        found[0] = node.dy
    if node.wants(1):
        found[1] = tape.write("Neg", node.dy)
    return summed_to_inputs(tape, node, found)


@rule("Mul")
def product(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(a b) = b da + a db."""
    a, b = node.inputs
    if a == b:
        return {0: tape.write("Mul", node.dy, tape.scaled(a, 2, node.dtype))}
    found = {
        index: tape.write("Mul", node.dy, other) for index, other in ((0, b), (1, a)) if node.wants(index)
    }
    return summed_to_inputs(tape, node, found)


@rule("Div")
def quotient(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(a / b) = da / b - y db / b."""
    share = tape.write("Div", node.dy, node.inputs[1])
    found = {}
    if node.wants(0):
        found[0] = share
    if node.wants(1):
        found[1] = tape.write("Neg", tape.write("Mul", share, node.y))
    return summed_to_inputs(tape, node, found)


@rule("Pow")
def power(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(a^b) = b a^(b-1) da + ln(a) y db, where ln(a) counts for a > 0 alone."""
    base, exponent = node.inputs
    found = {}
    if node.wants(0):
        known = node.constants[1]
        if known is not None and known.size == 1:
            number = float(known.reshape(()))
            lower = base if number == 2 else tape.write("Pow", base, tape.constant(number - 1, node.dtype))
            slope = tape.scaled(lower, number, node.dtype)
        else:
            exponent = tape.write("CastLike", exponent, base)
            one = tape.constant(1, node.dtype)
            slope = tape.write("Mul", exponent, tape.write("Pow", base, tape.write("Sub", exponent, one)))
        found[0] = tape.write("Mul", node.dy, slope)
    if node.wants(1):
        zero, one = tape.constant(0, node.dtype), tape.constant(1, node.dtype)
        logarithm = tape.write("Log", tape.write("Where", tape.write("Greater", base, zero), base, one))
        found[1] = tape.product(node.dy, node.y, logarithm)
    return summed_to_inputs(tape, node, found)


@rule("Max", "Min")
def extreme(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient to the inputs that are the extreme; equal ones share it."""
    masks = {
        index: tape.mask(tape.write("Equal", name, node.y), node.dtype)
        for index, name in enumerate(node.inputs)
        if node.wants(index)
    }
    share = node.dy
    if len(masks) > 1:
        count = tape.write("Sum", *masks.values())
        share = tape.write("Div", node.dy, tape.write("Max", count, tape.constant(1, node.dtype)))
    return summed_to_inputs(
        tape, node, {index: tape.write("Mul", share, mask) for index, mask in masks.items()}
    )


@rule("Where")
def where(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient to the value that was chosen."""
    zero = tape.constant(0, node.dtype)
    found = {}
    if node.wants(1):
        found[1] = tape.write("Where", node.inputs[0], node.dy, zero)
    if node.wants(2):
        found[2] = tape.write("Where", node.inputs[0], zero, node.dy)
    return summed_to_inputs(tape, node, found)


@rule("Neg")
def negative(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(-x) = -dx."""
    return {0: tape.write("Neg", node.dy)}


@rule("Abs")
def absolute(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d|x| = sign(x) dx."""
    return {0: tape.write("Mul", node.dy, tape.write("Sign", node.x))}


@rule("Exp")
def exponential(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d exp(x) = y dx."""
    return {0: tape.write("Mul", node.dy, node.y)}


@rule("Log")
def logarithm(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d ln(x) = dx / x."""
    return {0: tape.write("Div", node.dy, node.x)}


@rule("Sqrt")
def square_root(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d sqrt(x) = dx / (2 y)."""
    return {0: tape.write("Div", tape.scaled(node.dy, 0.5, node.dtype), node.y)}


@rule("Reciprocal")
def reciprocal(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d(1/x) = -y^2 dx."""
    return {0: tape.write("Neg", tape.product(node.dy, node.y, node.y))}


@rule("Erf")
def error_function(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d erf(x) = 2/sqrt(pi) exp(-x^2) dx."""
    bell = tape.write("Exp", tape.write("Neg", tape.write("Mul", node.x, node.x)))
    return {0: tape.write("Mul", node.dy, tape.scaled(bell, 2 / np.sqrt(np.pi), node.dtype))}


@rule("Sin")
def sine(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d sin(x) = cos(x) dx."""
    return {0: tape.write("Mul", node.dy, tape.write("Cos", node.x))}


@rule("Cos")
def cosine(tape: Tape, node: GradientNode) -> dict[int, str]:
    """d cos(x) = -sin(x) dx."""
    return {0: tape.write("Neg", tape.write("Mul", node.dy, tape.write("Sin", node.x)))}


@rule("Clip")
def clip(tape: Tape, node: GradientNode) -> dict[int, str]:
    """1 within the bounds, 0 beyond; a bound that is computed takes what is clipped to it."""
    inside = tape.write("Equal", node.x, node.y)
    found = {0: tape.write("Mul", node.dy, tape.mask(inside, node.dtype))}
    for index, comparison in ((1, "Less"), (2, "Greater")):
        if node.wants(index):
            beyond = tape.mask(tape.write(comparison, node.x, node.inputs[index]), node.dtype)
            found[index] = tape.write("Mul", node.dy, beyond)
    return summed_to_inputs(tape, node, found)


@rule("Identity", "Dropout")
def unchanged(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient on: a dropout of a trained model drops nothing."""
    return {0: node.dy}


@rule("Cast", "CastLike")
def cast(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the gradient in the type of the input."""
    return {0: tape.write("CastLike", node.dy, node.x)}
