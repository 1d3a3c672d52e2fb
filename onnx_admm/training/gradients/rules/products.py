"""Gradients of matrix products."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


@rule("MatMul")
def matmul(tape: Tape, node: GradientNode) -> dict[int, str]:
    """dA = dY B^T, dB = A^T dY; operands of one axis are taken as a row and a column."""
    a_shape, b_shape = node.input_shapes
    if len(a_shape) == 1 or len(b_shape) == 1:
        return _with_vectors(tape, node)
    if len(b_shape) == 2:
        return _by_matrix(tape, node)
    a, b = node.inputs
    rank = len(node.output_shapes[0])
    lead = node.output_shapes[0][:-2]
    found = {}
    if node.wants(0):
        gradient = tape.matmul(node.dy, _of_rank(tape, b, b_shape, rank), rank, turn_b=True)
        found[0] = tape.sum_to(gradient, (*lead, *a_shape[-2:]), a_shape)
    if node.wants(1):
        gradient = tape.matmul(_of_rank(tape, a, a_shape, rank), node.dy, rank, turn_a=True)
        found[1] = tape.sum_to(gradient, (*lead, *b_shape[-2:]), b_shape)
    return found


def _of_rank(tape: Tape, value: str, shape: tuple[int, ...], rank: int) -> str:
    """Return a value with leading axes of extent 1, so that it has the rank."""
    if len(shape) == rank:
        return value
    return tape.reshape(value, [1] * (rank - len(shape)) + list(shape))


def _by_matrix(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return a stack of rows times one matrix: single products over all rows."""
    a, b = node.inputs
    a_shape, (inner, columns) = node.input_shapes
    rows = int(np.prod(a_shape[:-1], dtype=np.int64))
    is_stack = len(a_shape) > 2
    flat = tape.reshape(node.dy, [rows, columns]) if is_stack else node.dy
    found = {}
    if node.wants(0):
        gradient = tape.write("Gemm", flat, b, transB=1)
        found[0] = tape.reshape(gradient, a_shape) if is_stack else gradient
    if node.wants(1):
        left = tape.reshape(a, [rows, inner]) if is_stack else a
        found[1] = tape.write("Gemm", left, flat, transA=1)
    return found


def _with_vectors(tape: Tape, node: GradientNode) -> dict[int, str]:
    a_shape, b_shape = node.input_shapes
    a_matrix = (1, *a_shape) if len(a_shape) == 1 else a_shape
    b_matrix = (*b_shape, 1) if len(b_shape) == 1 else b_shape
    rank = max(len(a_matrix), len(b_matrix))
    lead = np.broadcast_shapes(a_matrix[:-2], b_matrix[:-2])
    dy = tape.reshape(node.dy, [*lead, a_matrix[-2], b_matrix[-1]])
    a = _of_rank(tape, tape.reshape(node.inputs[0], a_matrix), a_matrix, rank)
    b = _of_rank(tape, tape.reshape(node.inputs[1], b_matrix), b_matrix, rank)
    found = {}
    if node.wants(0):
        gradient = tape.matmul(dy, b, rank, turn_b=True)
        summed = tape.sum_to(gradient, (*lead, *a_matrix[-2:]), a_matrix)
        found[0] = tape.reshape(summed, a_shape)
    if node.wants(1):
        gradient = tape.matmul(a, dy, rank, turn_a=True)
        summed = tape.sum_to(gradient, (*lead, *b_matrix[-2:]), b_matrix)
        found[1] = tape.reshape(summed, b_shape)
    return found


@rule("Gemm")
def gemm(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Y = alpha A' B' + beta C, where A' and B' may be transposed."""
    a, b = node.inputs[:2]
    turned_a, turned_b = int(node.get("transA", 0)), int(node.get("transB", 0))
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    found = {}
    if node.wants(0):
        operands = (b, node.dy, turned_b, 1) if turned_a else (node.dy, b, 0, 1 - turned_b)
        found[0] = _scaled_gemm(tape, *operands, alpha)
    if node.wants(1):
        operands = (node.dy, a, 1, turned_a) if turned_b else (a, node.dy, 1 - turned_a, 0)
        found[1] = _scaled_gemm(tape, *operands, alpha)
    if node.wants(2):
        gradient = tape.sum_to(node.dy, node.output_shapes[0], node.input_shapes[2])
        found[2] = tape.scaled(gradient, beta, node.dtype)
    return found


def _scaled_gemm(tape: Tape, a: str, b: str, turned_a: int, turned_b: int, alpha: float) -> str:
    return tape.write("Gemm", a, b, transA=turned_a, transB=turned_b, alpha=alpha)


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(tape: Tape, node: GradientNode) -> dict[int, str]:
    """alpha A' B', where the last two axes of either may be exchanged first."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise UnsupportedVariant("the first axis is transposed")
    shapes, rank = node.input_shapes, len(node.output_shapes[0])
    if min(map(len, shapes)) < 2:
        raise UnsupportedVariant("an operand is a vector")
    turned = [bool(node.get("transA", 0)), bool(node.get("transB", 0))]
    a, b = (_of_rank(tape, name, shape, rank) for name, shape in zip(node.inputs, shapes, strict=True))
    dy = tape.scaled(node.dy, float(node.get("alpha", 1.0)), node.dtype)
    lead = node.output_shapes[0][:-2]
    found = {}
    if node.wants(0):
        if turned[0]:
            gradient = tape.matmul(b, dy, rank, turn_a=turned[1], turn_b=True)
        else:
            gradient = tape.matmul(dy, b, rank, turn_b=not turned[1])
        found[0] = tape.sum_to(gradient, (*lead, *shapes[0][-2:]), shapes[0])
    if node.wants(1):
        if turned[1]:
            gradient = tape.matmul(dy, a, rank, turn_a=True, turn_b=turned[0])
        else:
            gradient = tape.matmul(a, dy, rank, turn_a=not turned[0])
        found[1] = tape.sum_to(gradient, (*lead, *shapes[1][-2:]), shapes[1])
    return found


@rule("Einsum")
def einsum(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Return the equation with the output in the operand's place.

    Letters that the operand alone has were summed over: the gradient is repeated along them.
    """
    terms, output = _equation(node)
    found = {}
    for index, own in enumerate(terms):
        if not node.wants(index):
            continue
        if len(set(own)) < len(own):
            raise UnsupportedVariant(f"a diagonal: {own!r}")
        others = [
            (term, name) for i, (term, name) in enumerate(zip(terms, node.inputs, strict=True)) if i != index
        ]
        seen = set(output).union(*(term for term, _ in others))
        kept = "".join(letter for letter in own if letter in seen)
        equation = ",".join([output, *(term for term, _ in others)]) + "->" + kept
        gradient = tape.write("Einsum", node.dy, *(name for _, name in others), equation=equation)
        found[index] = _restored(tape, gradient, own, kept, node.input_shapes[index])
    return found


def _restored(tape: Tape, gradient: str, own: str, kept: str, shape: tuple[int, ...]) -> str:
    if kept == own:
        return gradient
    extents = [extent if letter in kept else 1 for letter, extent in zip(own, shape, strict=True)]
    return tape.write("Expand", tape.reshape(gradient, extents), tape.ints(shape))


def _equation(node: GradientNode) -> tuple[list[str], str]:
    text = str(node.get("equation")).replace(" ", "")
    if "." in text:
        raise UnsupportedVariant("an ellipsis")
    left, arrow, output = text.partition("->")
    if not arrow:
        letters = sorted(set(left) - {","})
        output = "".join(letter for letter in letters if left.count(letter) == 1)
    return left.split(","), output
