"""What a file stores and nothing needs, or what is wrong: constants that no node reads, inner shapes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from onnx_admm.model.analysis.shapes import forget_shapes, wrong_shapes
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext


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


def find_wrong_shapes(context: RewriteContext) -> Iterator[Match]:
    """Yield the stored shapes of inner values where some contradict the graph; all of them go."""
    wrong = wrong_shapes(context.view)
    if wrong:
        name, (stored, right) = next(iter(wrong.items()))
        what = (
            f"{len(wrong)} stored shapes contradict the graph, {name} for one, {list(stored)}, which with open "
            f"extents at 640 is {list(right)}: all inner shapes are left out"
        )
        yield Match((), what, 1, partial(forget_shapes, context.view), name)
