"""A row of a table that is chosen by a product with a one-hot vector becomes a lookup.

    Cast (ids == [0, 1, ..., n - 1]) @ table  =  Gather (table, ids)

Ids outside of the range give a row of zeros on the left and an error on the right. So the table gets a row of
zeros at each end, and the ids are limited: ``Gather ([0; table; 0], clip (ids + 1, 0, n + 1))``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.rewrite.for_runtime.expressions import inner_producer, producer
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.replacing import constant_for, insert_before, replace

_OPSET = 13
"""Squeeze takes its axes as an input from here on, and Clip integers from 12."""

_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


@dataclass(frozen=True, slots=True)
class _Choice:
    """``ids`` of shape (..., 1), compared with all row numbers; ``nodes`` compute the one-hot vectors."""

    ids: ir.Value
    nodes: tuple[ir.Node, ...]


def find_one_hot_products(context: RewriteContext) -> Iterator[Match]:
    """Yield MatMul of one-hot vectors, compared with all row numbers, and a stored table."""
    for node in context.nodes("MatMul"):
        left, table = node.inputs
        tensor = None if table is None else constant_tensor(table)
        if left is None or tensor is None or len(tensor.shape) != 2 or tensor.dtype != ir.DataType.FLOAT:
            continue
        rows = int(tensor.shape.numpy()[0])
        choice = _choice(context, left, rows)
        if choice is None:
            continue
        what = f"a product with a one-hot vector becomes a lookup in {rows} rows"
        apply = partial(_apply, context, node, choice, np.asarray(tensor.numpy()))
        yield Match((node, *choice.nodes), what, _OPSET, apply)


def _choice(context: RewriteContext, value: ir.Value, rows: int) -> _Choice | None:
    cast = inner_producer(value, "Cast")
    equal = None if cast is None else inner_producer(cast.inputs[0], "Equal")
    if cast is None or equal is None:
        return None
    for place in (0, 1):
        numbers = equal.inputs[place]
        tensor = None if numbers is None else constant_tensor(numbers)
        if tensor is None or tensor.dtype not in _INTEGERS or tensor.size != rows:
            continue
        if tensor.shape.numpy()[-1:] != (rows,):
            return None
        if not np.array_equal(np.asarray(tensor.numpy()).reshape(-1), np.arange(rows)):
            return None
        ids = equal.inputs[1 - place]
        expand = producer(ids, "Expand")
        nodes = (cast, equal) if expand is None else (cast, equal, expand)
        if expand is not None:
            ids = expand.inputs[0]
        if ids is None or rows == 1 or context.dtypes.get(ids) not in _INTEGERS:
            return None
        return _Choice(ids, nodes) if _are_columns(context, ids, value, rows) else None
    return None


def _are_columns(context: RewriteContext, ids: ir.Value, vectors: ir.Value, rows: int) -> bool:
    """Return whether ids have the shape (..., 1) and their vectors (..., rows), for every batch."""
    narrow, wide = context.shapes_of_batches(ids), context.shapes_of_batches(vectors)
    if narrow is None or wide is None:
        return False
    return all(
        None not in one and one[-1:] == (1,) and many == (*one[:-1], rows)
        for one, many in zip(narrow, wide, strict=True)
    )


def _apply(context: RewriteContext, node: ir.Node, choice: _Choice, table: np.ndarray) -> None:
    dtype = np.int32 if context.dtypes.get(choice.ids) == ir.DataType.INT32 else np.int64
    rows, width = table.shape
    zeros = np.zeros((1, width), table.dtype)
    flat = insert_before(context, node, "Squeeze", [choice.ids, None])
    moved = insert_before(context, node, "Add", [flat, None])
    limited = insert_before(context, node, "Clip", [moved, None, None])
    for value, index, array in (
        (flat, 1, np.asarray([-1], np.int64)),
        (moved, 1, np.asarray(1, dtype)),
        (limited, 1, np.asarray(0, dtype)),
        (limited, 2, np.asarray(rows + 1, dtype)),
    ):
        owner = value.producer()
        if owner is not None:
            constant_for(context, owner, index, array, f"{value.name}_{index}")
    lookup = replace(context, node, "Gather", [None, limited])
    constant_for(context, lookup, 0, np.concatenate([zeros, table, zeros]), f"{lookup.outputs[0].name}_table")
