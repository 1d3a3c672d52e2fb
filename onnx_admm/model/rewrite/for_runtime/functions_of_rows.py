"""Functions of the rows of a constant table are computed once, for the table, and not for every lookup.

    f (Gather (table, ids))  =  Gather (f (table), ids)

for a function of single elements, an operation with constants that are the same for all rows, or a
LayerNormalization within the row. The runtime computes f (table) as it loads the file, which keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.analysis.shapes import Shape
from onnx_admm.model.constants import constant_tensor, replace_constant
from onnx_admm.model.lookups import gathers_rows
from onnx_admm.model.operators import STANDARD, Trait, has_trait
from onnx_admm.model.rewrite.for_runtime.expressions import is_inner
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace


@dataclass(frozen=True, slots=True)
class _Lookup:
    """``Gather (table, ids)`` along the first axis; a row has ``row_rank`` axes."""

    node: ir.Node
    table: ir.Value
    ids: ir.Value
    row_rank: int


def find_functions_of_rows(context: RewriteContext) -> Iterator[Match]:
    """Yield functions of looked-up rows, where the ids read as many rows as the table has, or more."""
    for node in context.nodes("Gather"):
        lookup = _lookup(context, node)
        function = None if lookup is None else _only_reader(node.outputs[0])
        if lookup is None or function is None or function.graph is not node.graph:
            continue
        if not _is_of_rows(context, lookup, function) or not _reads_all(context, lookup):
            continue
        what = f"{function.op_type} of looked-up rows is computed for the table, as the file is loaded"
        yield Match((function, node), what, 1, partial(_apply, context, lookup, function))


def _lookup(context: RewriteContext, node: ir.Node) -> _Lookup | None:
    table, ids = node.inputs
    if table is None or ids is None or not gathers_rows(node):
        return None
    shape = _shape(context, table)
    if node.graph is not context.view.graph_ir.graph or shape is None or context.is_constant(ids):
        return None
    if context.dtypes.get(node.outputs[0]) != ir.DataType.FLOAT or not _is_constant(context, table):
        return None
    return _Lookup(node, table, ids, len(shape) - 1)


def _shape(context: RewriteContext, value: ir.Value) -> Shape | None:
    tensor = constant_tensor(value)
    return context.shapes.get(value) if tensor is None else tuple(tensor.shape.numpy())


def _is_constant(context: RewriteContext, value: ir.Value) -> bool:
    """Return whether constants determine a value, functions of a table in front of it included."""
    pending = [value]
    while pending:
        current = pending.pop()
        if context.is_constant(current):
            continue
        node = current.producer()
        if node is None or not _is_function(node):
            return False
        pending += [operand for operand in node.inputs if operand is not None]
    return True


def _is_function(node: ir.Node) -> bool:
    if node.domain not in STANDARD or has_trait(node, Trait.DISCRETE):
        return False
    return has_trait(node, Trait.UNARY, Trait.BROADCASTS) or node.op_type == "LayerNormalization"


def _only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, through one input or several."""
    readers = {use.node for use in value.uses()}
    return next(iter(readers)) if len(readers) == 1 and not value.is_graph_output() else None


def _is_of_rows(context: RewriteContext, lookup: _Lookup, function: ir.Node) -> bool:
    """Return whether a node computes each row of its result from one row of the table alone."""
    rows = lookup.node.outputs[0]
    shape = context.shapes.get(rows)
    if not _is_function(function) or shape is None or context.shapes.get(function.outputs[0]) != shape:
        return False
    if any(output.uses() or output.is_graph_output() for output in function.outputs[1:]):
        return False
    if function.op_type == "LayerNormalization":
        axis = function.attributes.get_int("axis", -1)
        if function.inputs[0] is not rows or len(shape) - axis % len(shape) > lookup.row_rank:
            return False
    return all(
        value is None or value is rows or _is_same_for_rows(context, value, lookup)
        for value in function.inputs
    )


def _is_same_for_rows(context: RewriteContext, value: ir.Value, lookup: _Lookup) -> bool:
    """Return whether a value is constant, and varies along the axes of a row alone."""
    shape = _shape(context, value)
    if shape is None or None in shape or not context.is_constant(value):
        return False
    return all(extent == 1 for extent in shape[: max(0, len(shape) - lookup.row_rank)])


def _reads_all(context: RewriteContext, lookup: _Lookup) -> bool:
    """Return whether one sample looks up as many rows as the table has, or more."""
    ids, table = context.shapes_of_one.get(lookup.ids), _shape(context, lookup.table)
    if ids is None or table is None or None in ids or table[0] is None:
        return False
    return math.prod(extent or 0 for extent in ids) >= table[0]


def _apply(context: RewriteContext, lookup: _Lookup, function: ir.Node) -> None:
    rows = lookup.node.outputs[0]
    inputs = [lookup.table if value is rows else value for value in function.inputs]
    attributes = {name: attribute.value for name, attribute in function.attributes.items()}
    if function.op_type == "LayerNormalization":
        rank = len(context.shapes[rows])
        attributes["axis"] = attributes.get("axis", -1) % rank - rank
    table = insert_before(context, function, function.op_type, inputs, attributes)
    computed = table.producer()
    if computed is None:
        return
    replace(context, function, "Gather", [table, lookup.ids])
    _take_names(lookup.node, computed)
    for index in range(len(inputs)):
        _drop_axes(context, computed, index, lookup.row_rank + 1)


def _take_names(old: ir.Node, new: ir.Node) -> None:
    """Give a node and its result the names of another node, which goes: longer ones would take bytes."""
    for one, other in ((old, new), (old.outputs[0], new.outputs[0])):
        one.name, other.name = other.name, one.name


def _drop_axes(context: RewriteContext, node: ir.Node, index: int, rank: int) -> None:
    """Give an operand with more axes than the table, the first of extent 1, as many as the table has."""
    value = node.inputs[index]
    shape = None if value is None else _shape(context, value)
    if value is None or shape is None or None in shape or len(shape) <= rank:
        return
    own = [extent or 0 for extent in shape[len(shape) - rank :]]
    tensor = constant_tensor(value)
    if tensor is not None and is_inner(value):
        replace_constant(value, np.asarray(tensor.numpy()).reshape(own))
        return
    flat = insert_before(context, node, "Reshape", [value, None])
    reshape = flat.producer()
    if reshape is not None:
        constant_for(context, reshape, 1, np.asarray(own, np.int64), f"{value.name}_shape")
        node.replace_input_with(index, flat)
