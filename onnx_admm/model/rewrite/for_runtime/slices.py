"""Slices that take everything: exporters of array programs write them, and the runtime copies the tensor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import bypass
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext

_END = 10**9
"""An end from here on stands for the end of the axis, whatever its extent: exporters write this number where
theirs is open, or the largest of a type."""


class _Range(NamedTuple):
    axis: int
    start: int
    end: int
    step: int


def find_whole_slices(context: RewriteContext) -> Iterator[Match]:
    """Yield Slices that start at 0, end at or beyond the axis's end, and leave no element out."""
    for node in context.nodes("Slice"):
        data, output = node.inputs[0], node.outputs[0]
        if data is None or output.is_graph_output() or node.graph is None:
            continue
        ranges = _ranges(node)
        if ranges is None or not _is_whole(context, data, ranges):
            continue
        yield Match((node,), "a Slice that takes everything goes", 1, partial(bypass, node, data))


def _ranges(node: ir.Node) -> list[_Range] | None:
    """Return what is taken of each sliced axis; None where one is computed."""
    if len(node.inputs) == 1:
        given = [node.attributes.get_ints(name, None) for name in ("starts", "ends", "axes")]
    else:
        operands = (*node.inputs[1:], None, None)[:4]
        given = [None if value is None else _integers(value) for value in operands]
        if any(value is not None and found is None for value, found in zip(operands, given, strict=True)):
            return None
    starts, ends, axes, steps = (*given, None)[:4]
    if starts is None or ends is None:
        return None
    count = range(len(starts))
    axes, steps = (count if axes is None else axes), ([1 for _ in count] if steps is None else steps)
    return [_Range(*each) for each in zip(axes, starts, ends, steps, strict=True)]


def _integers(value: ir.Value) -> list[int] | None:
    tensor = constant_tensor(value)
    return None if tensor is None else [int(number) for number in np.asarray(tensor.numpy()).reshape(-1)]


def _is_whole(context: RewriteContext, data: ir.Value, ranges: list[_Range]) -> bool:
    for each in ranges:
        if each.start != 0 or each.step != 1:
            return False
        extent = None if each.end >= _END else context.fixed_extent(data, each.axis)
        if each.end < _END and (extent is None or each.end < extent):
            return False
    return True
