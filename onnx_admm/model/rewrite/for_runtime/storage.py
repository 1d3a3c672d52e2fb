"""What a file stores and nothing needs, or what is wrong: constants that no node reads, inner shapes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from onnx_admm.model.analysis.shapes import forget_shapes, wrong_shapes
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext

_PER_CHANNEL_SINCE = 13


def find_unused_constants(context: RewriteContext) -> Iterator[Match]:
    """Yield stored constants of the main graph that no node reads, and no caller sees."""
    graph = context.view.graph_ir.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        what = f"{tensor.nbytes:,} bytes that nothing reads are left out"
        yield Match((), what, 1, partial(_remove, graph, value), value.name or "")


def _remove(graph: ir.Graph, value: ir.Value) -> None:
    graph.initializers.pop(value.name or "", None)


def find_scales_of_channels(context: RewriteContext) -> Iterator[Match]:
    """Yield QuantizeLinear and DequantizeLinear with an axis at an opset that has none: it is raised."""
    if context.view.opset >= _PER_CHANNEL_SINCE:
        return
    for node in context.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = node.inputs[1] if len(node.inputs) > 1 else None
        tensor = None if scale is None else constant_tensor(scale)
        if "axis" in node.attributes or (tensor is not None and tensor.size > 1):
            what = f"{node.op_type} has one scale for each channel, which needs opset {_PER_CHANNEL_SINCE}"
            yield Match((node,), what, _PER_CHANNEL_SINCE, _nothing)


def _nothing() -> None:
    """Change nothing: the opset that the match states is the change."""


def find_wrong_shapes(context: RewriteContext) -> Iterator[Match]:
    """Yield the stored shapes of inner values where some contradict the graph; all of them go."""
    wrong = wrong_shapes(context.view)
    if wrong:
        name, (stored, right) = next(iter(wrong.items()))
        what = (
            f"{len(wrong)} stored shapes contradict the graph, {name} for one, {list(stored)}, which with "
            f"open extents at 640 is {list(right)}: all inner shapes are left out"
        )
        yield Match((), what, 1, partial(forget_shapes, context.view), name)
