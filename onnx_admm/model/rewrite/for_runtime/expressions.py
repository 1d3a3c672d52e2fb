"""Products and sums of a graph, written out: operators that stand for one formula are recognised by it.

Exporters write one formula in many orders. Here a value is expanded into constants and factors (or addends),
through nodes whose results nothing else reads, so that ``0.5 * x * (1 + t)`` and ``x * (0.5 * t + 0.5)`` are
told apart from anything else by their coefficients alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.operators import STANDARD

_CLOSE = 2e-3
"""Relative difference of coefficients that count as equal: exporters round sqrt(2 / pi) and 0.044715."""

_MOST_FACTORS = 8


@dataclass(frozen=True, slots=True)
class Product:
    """``constant`` times the product of ``factors``; ``nodes`` compute it."""

    constant: float
    factors: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """``constant`` plus the sum of ``addends``; ``nodes`` compute it."""

    constant: float
    addends: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


def close(left: float, right: float) -> bool:
    """Return whether two coefficients are equal up to an exporter's rounding."""
    return abs(left - right) <= _CLOSE * abs(right)


def scalar(value: ir.Value | None) -> float | None:
    """Return the number of a constant that has one element, else None."""
    tensor = None if value is None else constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(np.asarray(tensor.numpy()).astype(np.float64).reshape(()))


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that computes a value, where its operator is one of these."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in STANDARD or node.op_type not in op_types:
        return None
    return node


def is_inner(value: ir.Value) -> bool:
    """Return whether one input of one node reads the value, and nothing else does."""
    return not value.is_graph_output() and len(value.uses()) == 1


def inner_producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that computes a value, where only one input reads it."""
    return producer(value, *op_types) if value is not None and is_inner(value) else None


def reader(value: ir.Value, *op_types: str) -> ir.Node | None:
    """Return the only node that reads a value, once, where its operator is one of these."""
    if not is_inner(value):
        return None
    node = next(iter(value.uses())).node
    return node if node.domain in STANDARD and node.op_type in op_types else None


def product_of(value: ir.Value) -> Product:
    """Return a value as a product, expanded through Mul, Div by a constant, Neg and small Pow."""
    return _product(value, is_root=True)


def _product(value: ir.Value, *, is_root: bool = False) -> Product:
    if (number := scalar(value)) is not None:
        return Product(number, (), ())
    node = producer(value, "Mul", "Div", "Neg", "Pow")
    atom = Product(1.0, (value,), ())
    if node is None or not (is_root or is_inner(value)):
        return atom
    left, right = (*node.inputs, None)[:2]
    if left is None:
        return atom
    if node.op_type == "Neg":
        inner = _product(left)
        return Product(-inner.constant, inner.factors, (node, *inner.nodes))
    number = scalar(right)
    if node.op_type == "Pow":
        if number not in (2.0, 3.0):
            return atom
        return Product(1.0, (left,) * int(number), (node,))
    if node.op_type == "Div":
        if number is None or number == 0:
            return atom
        inner = _product(left)
        return Product(inner.constant / number, inner.factors, (node, *inner.nodes))
    return _times(node, [left, right], atom)


def _times(node: ir.Node, operands: Iterable[ir.Value | None], atom: Product) -> Product:
    constant, factors, nodes = 1.0, list[ir.Value](), [node]
    for operand in operands:
        if operand is None:
            return atom
        inner = _product(operand)
        constant *= inner.constant
        factors += inner.factors
        nodes += inner.nodes
    return atom if len(factors) > _MOST_FACTORS else Product(constant, tuple(factors), tuple(nodes))


def sum_of(value: ir.Value) -> Sum:
    """Return a value as a sum, expanded through Add, and Sub of a constant."""
    node = producer(value, "Add", "Sub")
    if node is None or len(node.inputs) != 2:
        return Sum(0.0, (value,), ())
    constant, addends, nodes = 0.0, list[ir.Value](), [node]
    for place, operand in enumerate(node.inputs):
        number = scalar(operand)
        if operand is None or (number is None and place and node.op_type == "Sub"):
            return Sum(0.0, (value,), ())
        if number is not None:
            constant += -number if place and node.op_type == "Sub" else number
        elif is_inner(operand) and node.op_type == "Add" and producer(operand, "Add", "Sub") is not None:
            inner = sum_of(operand)
            constant += inner.constant
            addends += inner.addends
            nodes += inner.nodes
        else:
            addends.append(operand)
    return Sum(constant, tuple(addends), tuple(nodes))
