"""Pooling and reductions in the order and the operators that the runtime's convolution layout keeps.

A mean over all places behind a convolution is a GlobalAveragePool, which stays in the blocked layout of
convolutions; a maximum passes through a function that does not fall, so the function need only be computed
for the maxima.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from onnx_admm.model.operators import STANDARD, Trait, has_trait
from onnx_admm.model.rewrite.for_runtime.expressions import inner_producer
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.normalisation.means import reduced_axes
from onnx_admm.model.rewrite.for_runtime.replacing import insert_before, replace

_BLOCKED = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""Operators whose results the runtime keeps in blocks of channels."""

_PASSING = ("BatchNormalization", "QuantizeLinear", "DequantizeLinear")

_SLOW_AND_MONOTONE = ("Celu", "Elu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh")
"""Functions that do not fall, and cost more than a maximum; Relu and LeakyRelu are fused anyway."""


def find_means_over_places(context: RewriteContext) -> Iterator[Match]:
    """Yield ReduceMean over all axes behind the channels, where a convolution stands before it."""
    for node in context.nodes("ReduceMean"):
        data = node.inputs[0]
        shape = None if data is None else context.shapes.get(data)
        if data is None or shape is None or len(shape) < 3 or not _is_blocked(data):
            continue
        if context.dtypes.get(data) != ir.DataType.FLOAT or reduced_axes(node, len(shape)) != tuple(
            range(2, len(shape))
        ):
            continue
        keeps = bool(node.attributes.get_int("keepdims", 1))
        what = f"a mean over {len(shape) - 2} axes becomes GlobalAveragePool"
        yield Match((node,), what, 1, partial(_to_pool, context, node, data, keeps))


def _is_blocked(value: ir.Value) -> bool:
    """Return whether a convolution or pool computes a value, up to functions of single elements."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        node = current.producer()
        if current in seen or node is None or node.domain not in STANDARD:
            continue
        seen.add(current)
        if node.op_type in _BLOCKED:
            return True
        if has_trait(node, Trait.UNARY, Trait.BROADCASTS) or node.op_type in _PASSING:
            pending += [operand for operand in node.inputs if operand is not None]
    return False


def _to_pool(context: RewriteContext, node: ir.Node, data: ir.Value, keeps: bool) -> None:
    if keeps:
        replace(context, node, "GlobalAveragePool", [data])
        return
    pooled = insert_before(context, node, "GlobalAveragePool", [data])
    replace(context, node, "Flatten", [pooled])


def find_maxima_behind_functions(context: RewriteContext) -> Iterator[Match]:
    """Yield maxima over windows or places of a function that does not fall; the function goes behind."""
    for node in context.nodes("MaxPool", "GlobalMaxPool"):
        if len(node.outputs) > 1 and any(output.name for output in node.outputs[1:]):
            continue
        function = inner_producer(node.inputs[0], *_SLOW_AND_MONOTONE)
        if function is None or function.graph is not node.graph or not _is_monotone(function):
            continue
        what = f"{function.op_type} is computed for the maxima alone, behind {node.op_type}"
        yield Match((node, function), what, 1, partial(_swap, context, node, function))


def _is_monotone(function: ir.Node) -> bool:
    """Return whether its parameters leave a function without a fall: all of them positive."""
    return all(
        attribute.as_float() > 0 for attribute in function.attributes.values() if not attribute.is_ref()
    )


def _swap(context: RewriteContext, pool: ir.Node, function: ir.Node) -> None:
    data = function.inputs[0]
    attributes = {name: attribute.value for name, attribute in pool.attributes.items()}
    largest = insert_before(context, pool, pool.op_type, [data], attributes)
    own = {name: attribute.value for name, attribute in function.attributes.items()}
    replace(context, pool, function.op_type, [largest], own)
